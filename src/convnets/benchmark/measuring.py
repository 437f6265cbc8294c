"""Measure trainings, one at a time, each in a fresh process."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

PROGRAM = Path(__file__).with_name("contenders.py")
LONGEST_SECONDS = 3600
LAST_LINES = 3  # of a process that fails
NUM_TRAINING_IMAGES, NUM_VALIDATION_IMAGES = 60_000, 10_000
BATCHES_BEFORE_VALIDATION_IS_TIMED = 1

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """One training to be measured, in a process of its own.

    Attributes:
        contender: a name in `contenders.CONTENDERS`.
        model: a name in conf/model, with the book's recipe; data: one in conf/data.
        data_dir: the folder of the set's files; None for the set's own.
        num_steps: of each epoch; None for whole ones.
        num_warm_up: steps before the measured ones. These are the rest of the first epoch without its last execution,
            for what an epoch's end takes would weigh too much in a few steps.
        num_val_batches: None for all.
        resize: side of the images in pixels; None for the model's own.
        num_workers: processes that load data, where the contender has such; None for its habit.
        num_ranks: processes that train together, where the contender can.
    """

    contender: str
    model: str
    precision: str = "32-true"
    compile: bool | str = False
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
    data_dir: str | None = None


class Marks:
    """Notes, in the process that trains, when what was reached, and makes the figures of it.

    Times are on the clock that all processes of the machine share.

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
        self._device: torch.device | None = None  # where the training is watched

    def imported(self, since: float) -> None:
        """Count the time since then as time of imports."""
        self.import_seconds += time.monotonic() - since

    def watch(self) -> None:
        """Count the steps of every optimizer in this process from now on."""
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from convnets.device import waiting_for

        self._device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
        self._wait = waiting_for(self._device)
        register_optimizer_step_post_hook(lambda *_: self._step())

    def _step(self) -> None:
        self._num_steps += 1
        # The device is waited for at the window's ends only: a training that does not wait at each step may show it.
        if self._num_steps in (1, self.task.num_warm_up, self.num_measured):
            self._wait()
            self._steps[self._num_steps] = time.monotonic()

    @property
    def num_measured(self) -> int:
        """The number of the last measured step."""
        if self.task.num_steps is None:
            return NUM_TRAINING_IMAGES // self.task.batch_size
        return self.task.num_steps - self.task.steps_per_execution

    def validation_batch(self) -> None:
        """Note that a validation batch begins."""
        num_timed = self.task.num_val_batches or NUM_VALIDATION_IMAGES // self.task.batch_size
        if len(self._validation) < num_timed:
            if len(self._validation) in (BATCHES_BEFORE_VALIDATION_IS_TIMED, num_timed - 1):
                self._wait()
            self._validation.append(time.monotonic())

    def figures(self) -> dict[str, float]:
        """Images per second in training and in validation, seconds of the imports and to the first step, memory.

        The memory is a GPU's, by the most that tensors took, where there is one.
        """
        first, last = self._steps[self.task.num_warm_up], self._steps[self.num_measured]
        num_images = (self.num_measured - self.task.num_warm_up) * self.task.batch_size
        figures = {
            "images_per_second": num_images / (last - first),
            "import_seconds": self.import_seconds,
            "first_step_seconds": self._steps[1] - self.started,
            "peak_mib": peak_mib(self._device),
        }
        timed = self._validation[BATCHES_BEFORE_VALIDATION_IS_TIMED:]
        if len(timed) > 1:
            figures["val_images_per_second"] = (len(timed) - 1) * self.task.batch_size / (timed[-1] - timed[0])
        return figures


def reset_peak() -> None:
    """Have `peak_mib` start from the memory that this process has now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib(device: "torch.device | None" = None) -> float:
    """The most memory that this process has had, in MiB; not that of its workers. On a GPU: what its tensors took."""
    if device is not None and device.type == "cuda":
        from convnets.device import device_peak_mib

        return device_peak_mib(device) or 0.0
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def measure(task: Task) -> dict[str, Any]:
    """The task's figures, with the `seconds` of its process; or the `error`, which is the last lines it printed.

    `others_share` is the share of the processors' time that others than this process and its children had, the host's
    other machines included where the kernel is told.

    The process has a terminal, so that progress bars are drawn, and its cost is in the figures.
    """
    with tempfile.TemporaryDirectory() as folder:
        result_path, work_dir = Path(folder) / "result.json", Path(folder) / "work"
        work_dir.mkdir()
        ours, theirs = pty.openpty()
        output: list[bytes] = []
        reader = threading.Thread(target=_read, args=(ours, output))
        reader.start()
        started, busy_before, own_before = time.monotonic(), _busy_seconds(), _own_seconds()
        # By its path: of a module Lightning would start the other ranks as that module. -P: not from that folder.
        words = [json.dumps(asdict(task)), str(started), str(result_path)]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        try:
            subprocess.run(
                [sys.executable, "-P", str(PROGRAM), *words], cwd=work_dir, env=environment,
                stdin=theirs, stdout=theirs, stderr=theirs, timeout=LONGEST_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            output.append(f"not done within {LONGEST_SECONDS} s".encode())
        finally:
            seconds = time.monotonic() - started
            others = _busy_seconds() - busy_before - (_own_seconds() - own_before)
            os.close(theirs)
            reader.join()
            os.close(ours)
        if not result_path.exists():
            lines = [line for line in b"".join(output).decode(errors="replace").splitlines() if line.strip()]
            return {"error": "\n".join(lines[-LAST_LINES:])}
        others_share = max(others / (seconds * (os.cpu_count() or 1)), 0)
        return {**json.loads(result_path.read_text()), "seconds": seconds, "others_share": others_share}


def _busy_seconds() -> float:
    """How long all processors have worked since the machine's start, or were held back from it by the host."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """How long this process and its ended children have worked."""
    return sum(os.times()[:4])


def _read(terminal: int, output: list[bytes]) -> None:
    """Read until the terminal's other side is closed, and keep the end."""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 65536):
            output[:] = [*output[-50:], part]


def interleaved(tasks: Sequence[T], num_repetitions: int) -> list[tuple[int, T]]:
    """Each task once a repetition, each repetition from another task on, so that a drift of the machine meets all."""
    return [
        (repetition, tasks[(place + repetition) % len(tasks)])
        for repetition in range(num_repetitions)
        for place in range(len(tasks))
    ]
