"""A Hydra launcher that runs each job of a sweep as a process of its own, on GPUs of its own."""
