"""What callbacks have logged of an epoch that a resume begins inside: Lightning itself begins again from nothing."""

from typing import Any

import torch
from lightning import Trainer

from convnets.classifier import Classifier

Logged = dict[str, dict[str, float]]  # by hook and name


class LoggedSoFar:
    """Puts an epoch's running means of `self.log`, which a checkpoint holds, together with those since the resume.

    They come out as if there had been no interruption, to the bit where a hook logs a name once a step. A metric of
    torchmetrics that is logged whole keeps its own state, and is not among them.

    Lightning offers no access to them: tests/callbacks/test_history.py fails where `trainer._results` is no more what
    it was.
    """

    def __init__(self) -> None:
        self._earlier: Logged = {}

    def state(self, trainer: Trainer, classifier: Classifier) -> list[Logged]:
        """The running means of every rank; nothing once the epoch's row is written."""
        own = dict(self._earlier)
        for key, metric in (trainer._results or {}).items():
            if metric.is_tensor and not metric.has_reset and metric.meta.name in classifier.logged:
                is_mean = metric.meta.on_epoch and metric.meta.is_mean_reduction
                count = metric.cumulated_batch_size.item() if is_mean else 1
                own[key] = {"value": metric.value.item(), "count": count}
        if trainer.world_size == 1:
            return [own]
        every: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(every, own)  # a rank may log what others do not
        return every

    def restore(self, trainer: Trainer, classifier: Classifier) -> None:
        """Let monitoring callbacks and the row find what is not logged again in this epoch."""
        for key, earlier in self._earlier.items():
            name = key.partition(".")[2]
            classifier.logged[name] = None
            trainer.callback_metrics[name] = torch.tensor(earlier["value"] / earlier["count"])

    def load(self, state: list[Logged] | None, rank: int) -> None:
        """Take over the rank's own from a checkpoint; those of earlier code have none."""
        self._earlier = dict(state[rank]) if state else {}

    def join(self, trainer: Trainer) -> None:
        """Add the earlier steps to what the first step after them has logged."""
        for key, metric in (trainer._results or {}).items() if self._earlier else ():
            if metric.has_reset or (earlier := self._earlier.pop(key, None)) is None or not metric.meta.on_epoch:
                continue
            value = torch.tensor(earlier["value"], dtype=metric.value.dtype, device=metric.value.device)
            if metric.meta.is_max_reduction or metric.meta.is_min_reduction:
                metric.value = metric.meta.reduce_fx(value, metric.value)
            else:
                metric.value = value + metric.value
            if metric.meta.is_mean_reduction:
                metric.cumulated_batch_size += int(earlier["count"])
            metric._computed = None
