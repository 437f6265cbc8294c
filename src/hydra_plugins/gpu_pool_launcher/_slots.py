"""Which GPUs there are, and which of them are free on this machine."""

import fcntl
import getpass
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Gpu:
    """A GPU or a MIG part of one.

    Args:
        name: what CUDA_VISIBLE_DEVICES calls it.
        identity: what it is called whatever the process sees, which its lock is named by.
    """

    name: str
    identity: str


def find_gpus(environment: Mapping[str, str]) -> list[Gpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES names, else all that nvidia-smi lists; no CUDA context is created."""
    listed = _listed_gpus(environment)
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return listed
    identities = {gpu.name: gpu.identity for gpu in listed}
    names = [name.strip() for name in visible.split(",")]
    # As CUDA does: what comes after the first invalid entry is not visible.
    valid = names[: next((index for index, name in enumerate(names) if name in ("", "-1", "NoDevFiles")), None)]
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
                gpus.pop()  # a GPU in parts is not to be had as a whole
            gpus.append(Gpu(match[1], match[1]))
    return gpus


@dataclass
class Slots:
    """Places for jobs: `per_gpu` on each GPU, or `cpu_slots` without one.

    A GPU is locked while a job of this process is on it, so that another sweep of the user waits for it. The lock is
    the kernel's: a dead holder holds nothing.
    """

    gpus: list[Gpu]
    per_gpu: int = 1
    cpu_slots: int = 1
    lock_dir: Path = field(
        default_factory=lambda: Path(tempfile.gettempdir()) / f"gpu_pool_launcher-{getpass.getuser()}"
    )
    _used: dict[str, int] = field(default_factory=dict)
    _locks: dict[str, IO[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [gpu.name for gpu in self.gpus] or [f"cpu{number}" for number in range(self.cpu_slots)]
        self._used = dict.fromkeys(names, 0)

    def __len__(self) -> int:
        return len(self.gpus) * self.per_gpu if self.gpus else self.cpu_slots

    @property
    def num_places(self) -> int:
        """The most that one job can ask for."""
        return len(self._used)

    def take(self, number: int) -> list[str] | None:
        """The names of so many places, or None where there are not so many free now.

        A job that needs several GPUs gets them whole; one that needs one shares the emptiest.
        """
        share = self._share(number)
        whole = self.per_gpu if self.gpus else 1
        candidates = sorted(
            (name for name, used in self._used.items() if used + share <= whole), key=self._used.__getitem__
        )
        taken: list[str] = []
        for name in candidates:
            if len(taken) < number and self._lock(name):
                taken.append(name)
        if len(taken) < number:
            for name in taken:
                self._unlock_if_empty(name)
            return None
        for name in taken:
            self._used[name] += share
        return taken

    def give_back(self, names: list[str]) -> None:
        """Make the places free again."""
        for name in names:
            self._used[name] -= self._share(len(names))
            self._unlock_if_empty(name)

    def _share(self, number: int) -> int:
        return 1 if number == 1 or not self.gpus else self.per_gpu

    def _lock(self, name: str) -> bool:
        identity = {gpu.name: gpu.identity for gpu in self.gpus}.get(name)
        if identity is None or name in self._locks:
            return True
        self.lock_dir.mkdir(mode=0o700, exist_ok=True)
        file = (self.lock_dir / re.sub(r"[^\w.-]", "_", identity)).open("a")
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


def threads_per_slot(slots: Slots) -> int | None:
    """Threads for each of several jobs that share the processor; None where one has it all, or the jobs have GPUs."""
    return None if slots.gpus or len(slots) == 1 else max(len(os.sched_getaffinity(0)) // len(slots), 1)
