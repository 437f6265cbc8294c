"""What a training step does on the device, seen from outside."""

from collections import Counter

import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode


class Watched(TorchDispatchMode):
    """Counts what waits for a device, by the step, and the numbers in the largest floating-point tensor."""

    def __init__(self):
        super().__init__()
        self.step = None
        self.waits = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._local_scalar_dense.default:
            self.waits[self.step] += 1
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.largest = max(self.largest, result.numel())
        return result


class Steps(Callback):
    def __init__(self, watched):
        self.watched = watched

    def on_train_batch_start(self, trainer, *_):  # until the next one's: also between the steps
        # The last one's end is the epoch's, where figures are read.
        self.watched.step = None if trainer.is_last_batch else "within an epoch"
