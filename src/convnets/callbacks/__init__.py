"""What happens beside the training step."""

from convnets.callbacks.checkpoints import (
    CheckedCheckpointIO,
    CheckpointError,
    Checkpoints,
    Interrupted,
    check_fits,
    newest_checkpoint,
    read_checkpoint,
)
from convnets.callbacks.curves import Curves, curves_title, write_curves
from convnets.callbacks.dashboard import Dashboard
from convnets.callbacks.finite_loss import FiniteLoss, NonFiniteLossError
from convnets.callbacks.history import History
from convnets.callbacks.initialization import KaimingInit, NothingInitializedError, WeightsFromRun, XavierInit
from convnets.callbacks.norms import Norms
from convnets.callbacks.progress import Progress, TimeEstimate
from convnets.callbacks.shared_cores import SharedCores
from convnets.callbacks.steps import SeveralSteps, StepRandomness
from convnets.callbacks.throughput import Throughput

__all__ = [
    "CheckedCheckpointIO",
    "CheckpointError",
    "Checkpoints",
    "Curves",
    "Dashboard",
    "FiniteLoss",
    "History",
    "Interrupted",
    "KaimingInit",
    "NonFiniteLossError",
    "Norms",
    "NothingInitializedError",
    "Progress",
    "SeveralSteps",
    "SharedCores",
    "StepRandomness",
    "Throughput",
    "TimeEstimate",
    "WeightsFromRun",
    "XavierInit",
    "check_fits",
    "curves_title",
    "newest_checkpoint",
    "read_checkpoint",
    "write_curves",
]
