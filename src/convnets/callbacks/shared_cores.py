"""Training on a CPU whose cores other programs use too."""

import logging
import os
import threading
import time
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
CROWDED, CALM = 0.15, 0.05  # shares of the cores' time that other programs take
PROC_STAT = Path("/proc/stat")


class SharedCores(Callback):
    """Keeps a training on a CPU from slowing down out of proportion beside other programs, and warns of them once.

    At the end of an operation OpenMP's threads wait for each other in a busy loop, which is fastest where the cores are
    free. Where another program runs, a waiting thread may hold the core that the last thread needs, up to a time slice
    of the kernel for each operation: a step of LeNet took 300 ms instead of 7.

    GNU's OpenMP keeps that loop short where a process has more OpenMP threads than there are processors. So while other
    programs take the cores' time, this callback keeps additional threads, which do nothing. The number of threads that
    compute stays the same, and with it every bit of the result.

    Source: manual of libgomp, GOMP_SPINCOUNT.
    """

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the watching thread, where several threads compute."""
        if pl_module.device.type == "cpu" and torch.get_num_threads() > 1 and PROC_STAT.exists():
            self._stop.clear()
            warns, num_processes = trainer.is_global_zero, trainer.num_devices
            self._watcher = threading.Thread(target=self._watch, args=(warns, num_processes), daemon=True)
            self._watcher.start()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop watching."""
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop watching."""
        self._end()

    def _end(self) -> None:
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
            self._watcher = None

    def _watch(self, warns: bool, num_processes: int) -> None:
        idle_threads: IdleThreads | None = None
        previous = _clock(num_processes)
        while not self._stop.wait(CHECK_SECONDS):
            now = _clock(num_processes)
            share, previous = others_share(previous, now), now
            if share > CROWDED and idle_threads is None:
                idle_threads = IdleThreads()
                if warns:
                    log.warning(
                        "Other programs take %.0f %% of the time of the %d cores that this training computes on: it is "
                        "slower, and its seconds are no measurement. End or wait for them; of several trainings, start "
                        "each with OMP_NUM_THREADS=%d before its command.",
                        100 * share, _num_cores(), max(_num_cores() // 2, 1),
                    )  # fmt: skip
                    warns = False
            elif share < CALM and idle_threads is not None:
                idle_threads.end()
                idle_threads = None
        if idle_threads is not None:
            idle_threads.end()


Clock = tuple[float, float, float]  # seconds: of all cores' work, of this process's, since a fixed moment


def _clock(num_processes: int) -> Clock:
    times = os.times()
    return busy_seconds(), num_processes * (times.user + times.system), time.monotonic()


def others_share(previous: Clock, now: Clock) -> float:
    """The share of the cores' time, from 0 to 1, that other programs had between two readings of the clock."""
    busy, own, seconds = (b - a for a, b in zip(previous, now, strict=True))
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
    """OpenMP threads that do nothing, until `end`: with them the process has more threads than there are processors."""

    def __init__(self) -> None:
        self._ending = threading.Event()
        idle_per_team = torch.get_num_threads() - 1
        num_teams = max(_num_cores() - torch.get_num_threads(), 0) // idle_per_team + 1
        self._owners = [threading.Thread(target=self._own_a_team, daemon=True) for _ in range(num_teams)]
        for owner in self._owners:
            owner.start()

    def _own_a_team(self) -> None:
        torch.ones(2**20).add_(1)  # runs in parallel, for which OpenMP gives each Python thread a team of its own
        self._ending.wait()

    def end(self) -> None:
        """End the threads."""
        self._ending.set()
        for owner in self._owners:
            owner.join()
