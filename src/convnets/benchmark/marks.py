"""What is to be measured, and when a training reached its steps."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NUM_TRAINING_IMAGES, NUM_VALIDATION_IMAGES = 60_000, 10_000
BATCHES_BEFORE_VALIDATION_IS_TIMED = 1


@dataclass(frozen=True)
class Task:
    """One training to be measured, in a process of its own.

    Attributes:
        contender: a name in `contenders.CONTENDERS`.
        model: a name in conf/model, with the book's recipe; data: one in conf/data.
        num_steps: of each epoch; None for whole ones.
        num_warm_up: steps before the measured ones, which are the rest of the first epoch but for its last execution:
            what an epoch's end takes would weigh too much in a few steps.
        num_val_batches: None for all.
        resize: side of the images in pixels; None for the model's own.
        num_workers: processes that load data, where the contender has such; None for its habit.
        num_ranks: processes that train together, where the contender can.
    """

    contender: str
    model: str
    precision: str = "32-true"
    compile: bool = False
    steps_per_execution: int = 1
    num_epochs: int = 1
    num_steps: int | None = None
    num_warm_up: int = 1
    num_val_batches: int | None = None
    batch_size: int = 128
    resize: int | None = None
    num_workers: int | None = None
    num_ranks: int = 1
    data: str = "fashion_mnist"

    def dumps(self) -> str:
        """As JSON, for the command line of the process."""
        return json.dumps(asdict(self))


class Marks:
    """Notes times, on the clock that all processes of the machine share, and writes what follows from them.

    Args:
        started: when the process was asked for.
    """

    def __init__(self, task: Task, started: float) -> None:
        self.task = task
        self.started = started
        self.import_seconds = 0.0
        self._num_steps = 0
        self._steps: dict[int, float] = {}
        self._validation: list[float] = []

    def imported(self, since: float) -> None:
        """What was imported since then is the imports' share."""
        self.import_seconds += time.monotonic() - since

    def watch(self) -> None:
        """Count the steps of every optimizer in this process from now on."""
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self._wait: Callable[[], Any] = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
        register_optimizer_step_post_hook(lambda *_: self._step())

    def _step(self) -> None:
        self._num_steps += 1
        # The device is waited for at the window's ends only: a training that does not wait at each step may show it.
        if self._num_steps in (1, self.task.num_warm_up, self.num_measured):
            self._wait()
            self._steps[self._num_steps] = time.monotonic()

    @property
    def num_measured(self) -> int:
        """The last step of the window."""
        if self.task.num_steps is None:
            return NUM_TRAINING_IMAGES // self.task.batch_size
        return self.task.num_steps - self.task.steps_per_execution

    def validation_batch(self) -> None:
        """A validation batch begins."""
        num_timed = self.task.num_val_batches or NUM_VALIDATION_IMAGES // self.task.batch_size
        if len(self._validation) < num_timed:
            if len(self._validation) in (BATCHES_BEFORE_VALIDATION_IS_TIMED, num_timed - 1):
                self._wait()
            self._validation.append(time.monotonic())

    def figures(self) -> dict[str, float]:
        """Images per second in training and in validation, seconds of the imports and to the first step, memory."""
        first, last = self._steps[self.task.num_warm_up], self._steps[self.num_measured]
        num_images = (self.num_measured - self.task.num_warm_up) * self.task.batch_size
        figures = {
            "images_per_second": num_images / (last - first),
            "import_seconds": self.import_seconds,
            "first_step_seconds": self._steps[1] - self.started,
            "peak_mib": peak_mib(),
        }
        timed = self._validation[BATCHES_BEFORE_VALIDATION_IS_TIMED:]
        if len(timed) > 1:
            figures["val_images_per_second"] = (len(timed) - 1) * self.task.batch_size / (timed[-1] - timed[0])
        return figures


def reset_peak() -> None:
    """Have `peak_mib` start from what this process has now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """The most memory that this process has had, in MiB; not that of its workers, and none of a GPU."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024
