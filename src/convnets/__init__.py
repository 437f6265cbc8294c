"""Classic convolutional networks on Fashion-MNIST: PyTorch Lightning trains, Hydra composes, TensorBoard shows."""

from importlib import import_module
from typing import Any

_LOADED_ON_FIRST_USE = {"load_run": "load_run", "Run": "TrainedRun"}  # names in results/trained_run.py
__all__ = ["Run", "load_run"]


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for."""
    if name in _LOADED_ON_FIRST_USE:
        return getattr(import_module("convnets.results.trained_run"), _LOADED_ON_FIRST_USE[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
