"""Which GPUs there are, and which of them are free on this machine."""

import fcntl
import getpass
import itertools
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Gpu:
    """A GPU or a MIG part of one.

    Args:
        name: what CUDA_VISIBLE_DEVICES calls it.
        identity: the name of its lock, the same in every process whatever that process sees.
    """

    name: str
    identity: str


def find_gpus(environment: Mapping[str, str]) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, else all that nvidia-smi lists; no CUDA context is created."""
    listed = _listed_gpus(environment)
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is None:
        return listed
    identities = {gpu.name: gpu.identity for gpu in listed}
    names = map(str.strip, visible.split(","))
    # As CUDA does: what comes after the first invalid entry is not visible.
    valid = itertools.takewhile(lambda name: name not in ("", "-1", "NoDevFiles"), names)
    return [Gpu(name, identities.get(name, name)) for name in valid]


def _listed_gpus(environment: Mapping[str, str]) -> list[Gpu]:
    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True, env=dict(environment)
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    gpus: list[Gpu] = []
    for line in listing.splitlines():
        if match := re.match(r"GPU (\d+): .*\(UUID: ([^)]+)\)", line):
            gpus.append(Gpu(match[1], match[2]))
        elif match := re.match(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)", line):
            if gpus and not gpus[-1].identity.startswith("MIG-"):
                gpus.pop()  # a GPU in parts cannot be used as a whole
            gpus.append(Gpu(match[1], match[1]))
    return gpus


class Slots:
    """Places for jobs: each GPU holds `per_gpu` jobs; without a GPU there are `cpu_slots` places of one job each.

    A GPU is locked while a job of this process is on it, so that another sweep of the user waits for it. The lock is
    the kernel's: when its holder dies, the GPU is free.
    """

    def __init__(self, gpus: Sequence[Gpu], per_gpu: int = 1, cpu_slots: int = 1, lock_dir: Path | None = None) -> None:
        self.identities = {gpu.name: gpu.identity for gpu in gpus}
        self.capacity = per_gpu if gpus else 1  # jobs on one place
        self.lock_dir = lock_dir or Path(tempfile.gettempdir()) / f"gpu_pool_launcher-{getpass.getuser()}"
        self._used = dict.fromkeys(self.identities or [f"cpu{number}" for number in range(cpu_slots)], 0)
        self._locks: dict[str, IO[str]] = {}

    def __len__(self) -> int:
        return len(self._used) * self.capacity

    @property
    def num_gpus(self) -> int:
        """The most GPUs that one job can have."""
        return len(self.identities)

    @property
    def threads_per_job(self) -> int | None:
        """Threads for each of several jobs that share the processor; None where one has it all, or jobs have GPUs."""
        return None if self.num_gpus or len(self) == 1 else max(len(os.sched_getaffinity(0)) // len(self), 1)

    def take(self, number: int) -> list[str] | None:
        """Take `number` places and return their names; None where fewer are free now.

        A job that needs several GPUs gets them whole; one that needs one shares the emptiest.
        """
        share = self._share(number)
        free = (name for name, used in self._used.items() if used + share <= self.capacity)
        taken = list(itertools.islice(filter(self._lock, sorted(free, key=self._used.__getitem__)), number))
        if len(taken) < number:
            for name in taken:
                self._unlock_if_empty(name)
            return None
        for name in taken:
            self._used[name] += share
        return taken

    def give_back(self, names: Sequence[str]) -> None:
        """Make the places free again."""
        for name in names:
            self._used[name] -= self._share(len(names))
            self._unlock_if_empty(name)

    def has_free(self) -> bool:
        """Whether a job that needs one place would get it now."""
        if (taken := self.take(1)) is None:
            return False
        self.give_back(taken)
        return True

    def _share(self, number: int) -> int:
        """How much of each place a job on `number` places takes."""
        return 1 if number == 1 else self.capacity

    def _lock(self, name: str) -> bool:
        """Whether the place is this process's: always so without GPUs."""
        if name in self._locks or name not in self.identities:
            return True
        self.lock_dir.mkdir(mode=0o700, exist_ok=True)
        file = (self.lock_dir / re.sub(r"[^\w.-]", "_", self.identities[name])).open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._locks[name] = file
        return True

    def _unlock_if_empty(self, name: str) -> None:
        if self._used[name] == 0 and name in self._locks:
            self._locks.pop(name).close()
