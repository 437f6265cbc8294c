"""A Hydra sweeper that searches with Optuna, and goes on where it was interrupted."""
