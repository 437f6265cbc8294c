"""What no training goes without: weights to start from, steps, metrics, checkpoints, and what is said meanwhile."""

from convnets.callbacks.averaging import MovingAverage
from convnets.callbacks.checkpoints import (
    CheckedCheckpointIO,
    CheckpointError,
    Checkpoints,
    Interrupted,
    check_fits,
    newest_checkpoint,
    read_checkpoint,
)
from convnets.callbacks.finite_loss import FiniteLoss, NonFiniteLossError
from convnets.callbacks.history import History
from convnets.callbacks.initialization import (
    KaimingInit,
    NothingInitializedError,
    WeightsFromRun,
    XavierInit,
    take_over,
)
from convnets.callbacks.pausing import PAUSE_FILE, Paused, Pauses, paused_after
from convnets.callbacks.progress import Progress, TimeEstimate
from convnets.callbacks.shared_cores import SharedCores
from convnets.callbacks.steps import TrainingSteps

__all__ = [
    "PAUSE_FILE",
    "CheckedCheckpointIO",
    "CheckpointError",
    "Checkpoints",
    "FiniteLoss",
    "History",
    "Interrupted",
    "KaimingInit",
    "MovingAverage",
    "NonFiniteLossError",
    "NothingInitializedError",
    "Paused",
    "Pauses",
    "Progress",
    "SharedCores",
    "TimeEstimate",
    "TrainingSteps",
    "WeightsFromRun",
    "XavierInit",
    "check_fits",
    "newest_checkpoint",
    "paused_after",
    "read_checkpoint",
    "take_over",
]
