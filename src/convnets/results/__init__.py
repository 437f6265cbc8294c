"""What comes after a training: evaluation, prediction, export, comparison."""
