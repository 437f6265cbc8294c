"""What happens beside the training step."""

from convnets.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from convnets.callbacks.finite_loss import FiniteLoss, NonFiniteLossError
from convnets.callbacks.history import History
from convnets.callbacks.initialization import KaimingInit, NothingInitializedError, XavierInit
from convnets.callbacks.progress import Progress, TimeEstimate
from convnets.callbacks.randomness import StepRandomness

__all__ = [
    "AtomicCheckpointIO",
    "Checkpoints",
    "FiniteLoss",
    "History",
    "KaimingInit",
    "NonFiniteLossError",
    "NothingInitializedError",
    "Progress",
    "StepRandomness",
    "TimeEstimate",
    "XavierInit",
]
