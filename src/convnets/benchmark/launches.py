"""How often a GPU waits for the processor: at how many of the launches it has nothing left to do."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile

from convnets.benchmark.measuring import Task

NUM_TRACED_STEPS = 40
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
CALLS = ("cuda_runtime", "cuda_driver")


def percent_waited_for(events: Iterable[Mapping[str, Any]]) -> float | None:
    """Of the launches, how many are made when the device has done all that was launched before; None without any.

    A captured graph is one launch. The first launch is not counted: what came before it is not known.

    Args:
        events: of a trace as torch.profiler exports it, in microseconds: work on the device, and the calls that
            launched it, of the same `correlation`.
    """
    whole = [event for event in events if event.get("ph") == "X" and "correlation" in event.get("args", {})]
    made_at = {event["args"]["correlation"]: event["ts"] for event in whole if event["cat"] in CALLS}
    launched: set[int] = set()
    num_waited, done_at = 0, None
    for event in sorted((event for event in whole if event["cat"] in ON_DEVICE), key=lambda event: event["ts"]):
        launch = event["args"]["correlation"]
        if launch in made_at and launch not in launched:
            launched.add(launch)
            num_waited += done_at is not None and made_at[launch] > done_at
        done_at = max(done_at or 0, event["ts"] + event["dur"])
    return 100 * num_waited / (len(launched) - 1) if len(launched) > 1 else None


class Launches(Callback):
    """Traces some steps of a training, after those of the task's warm-up. The trace makes each launch slower.

    Attributes:
        percent: see `percent_waited_for`; None until the steps are over.
    """

    percent: float | None = None

    def __init__(self, task: Task) -> None:
        self._first = -(-task.num_warm_up // task.steps_per_execution)
        self._last = self._first + max(NUM_TRACED_STEPS // task.steps_per_execution, 1) - 1
        of_device = ProfilerActivity.CUDA if torch.cuda.is_available() else ProfilerActivity.CPU
        self._profile = profile(activities=[of_device])  # not both: what torch does itself would take time to note

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin with the first of the steps."""
        if batch_idx == self._first and trainer.current_epoch == 0:
            self._profile.start()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End with the last of them."""
        if batch_idx == self._last and trainer.current_epoch == 0:
            self._profile.stop()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "trace.json"
                self._profile.export_chrome_trace(str(path))
                self.percent = percent_waited_for(json.loads(path.read_text())["traceEvents"])
