"""What a training on the processor does beside other programs on the same cores."""

import logging
import os
import threading
import time
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
CROWDED, CALM = 0.15, 0.05  # of the cores' time, that others take
PROC_STAT = Path("/proc/stat")


class SharedCores(Callback):
    """Keeps a training on the processor bearable beside other programs, and says once that there are some.

    The threads of an operation wait for each other at its end, and OpenMP has them spin meanwhile. Alone that is the
    fastest. But where another program has a core, the last thread waits for the one that another spins on, up to a time
    slice of the kernel for each operation: a step of LeNet took 300 ms instead of 7.

    GNU's OpenMP spins for a moment only where a process has more of its threads than there are processors. So while
    others take the cores' time, this keeps more threads, which do nothing. As many as before compute: no bit changes.

    Source: manual of libgomp, GOMP_SPINCOUNT.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin to watch, where several threads compute."""
        if pl_module.device.type == "cpu" and torch.get_num_threads() > 1 and PROC_STAT.exists():
            self._stop.clear()
            speaks, num_processes = trainer.is_global_zero, trainer.num_devices
            self._watcher = threading.Thread(target=self._watch, args=(speaks, num_processes), daemon=True)
            self._watcher.start()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop watching."""
        self._end()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Stop watching."""
        self._end()

    def _end(self) -> None:
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None

    def _watch(self, speaks: bool, num_processes: int) -> None:
        idle_threads: IdleThreads | None = None
        before = _clock(num_processes)
        while not self._stop.wait(CHECK_SECONDS):
            now = _clock(num_processes)
            share, before = others_share(before, now), now
            if share > CROWDED and idle_threads is None:
                idle_threads = IdleThreads()
                if speaks:
                    log.warning(
                        "Other programs take %.0f %% of the time of the %d cores that this training computes on: it is "
                        "slower, and its seconds are no measurement. End or wait for them; of several trainings, start "
                        "each with OMP_NUM_THREADS=%d before its command.",
                        100 * share, _num_cores(), max(_num_cores() // 2, 1),
                    )  # fmt: skip
                    speaks = False
            elif share < CALM and idle_threads is not None:
                idle_threads.end()
                idle_threads = None
        if idle_threads is not None:
            idle_threads.end()


Clock = tuple[float, float, float]  # seconds: of all cores' work, of this process's, since a fixed moment


def _clock(num_processes: int) -> Clock:
    times = os.times()
    return busy_seconds(), num_processes * (times.user + times.system), time.monotonic()


def others_share(before: Clock, now: Clock) -> float:
    """The share of the cores' time that other programs had between the two, from 0 to 1."""
    busy, own, seconds = (b - a for a, b in zip(before, now, strict=True))
    return min(max((busy - own) / (seconds * _num_cores()), 0.0), 1.0)


def busy_seconds() -> float:
    """Seconds that the cores of this process have worked for anyone, the host's other machines included."""
    cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    lines = (line.split() for line in PROC_STAT.read_text().splitlines() if line.startswith("cpu"))
    # user nice system idle iowait irq softirq steal
    ticks = (sum(int(line[at]) for at in (1, 2, 3, 6, 7, 8)) for line in lines if line[0] in cores)
    return sum(ticks) / os.sysconf("SC_CLK_TCK")


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


class IdleThreads:
    """So many threads of OpenMP that the process has more of them than there are processors, until `end`."""

    def __init__(self) -> None:
        self._ending = threading.Event()
        more_a_team = torch.get_num_threads() - 1
        num_teams = max(_num_cores() - torch.get_num_threads(), 0) // more_a_team + 1
        self._owners = [threading.Thread(target=self._own_a_team, daemon=True) for _ in range(num_teams)]
        for owner in self._owners:
            owner.start()

    def _own_a_team(self) -> None:
        torch.ones(2**20).add_(1)  # in parallel: each thread of Python has a team of its own
        self._ending.wait()

    def end(self) -> None:
        """Let them go."""
        self._ending.set()
        for owner in self._owners:
            owner.join()
