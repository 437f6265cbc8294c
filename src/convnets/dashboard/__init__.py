"""What only watches a training: callbacks for the pictures, histograms and scalars of TensorBoard, and a logger."""

from convnets.dashboard.curves import Curves
from convnets.dashboard.dashboard import Dashboard
from convnets.dashboard.norms import Norms
from convnets.dashboard.throughput import Throughput
from convnets.dashboard.trackio_logger import TrackioLogger

__all__ = ["Curves", "Dashboard", "Norms", "Throughput", "TrackioLogger"]
