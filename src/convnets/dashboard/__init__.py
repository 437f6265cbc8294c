"""Callbacks that only watch a training: the pictures, histograms and scalars of TensorBoard."""

from convnets.dashboard.curves import Curves
from convnets.dashboard.dashboard import Dashboard
from convnets.dashboard.norms import Norms
from convnets.dashboard.throughput import Throughput

__all__ = ["Curves", "Dashboard", "Norms", "Throughput"]
