"""Memory for tensors: the process's on a CPU, and a GPU's."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER, NONE = -1, 0


def keep_freed_memory() -> bool:
    """Have freed memory used again instead of given back to the system: whether that could be set.

    A training step asks for the same large tensors each time. By default glibc fetches such memory from the kernel,
    which clears it page by page, and gives it back after the step: half of the time of VGG's steps. So a process
    keeps the most that it has needed until it ends.

    Left alone where there is no glibc, or where the user has set one of its MALLOC_ variables.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, NONE)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))


_peaks_before: dict[torch.device, float] = {}  # in MiB, of what was counted before torch's own count began anew


def reset_device_peak(device: torch.device) -> None:
    """Have `device_peak_mib` start from what this process has on the device now; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.init()  # nothing may have been on the device yet, and then torch knows of none
        _peaks_before.pop(device, None)
        torch.cuda.reset_peak_memory_stats(device)


def device_peak_mib(device: torch.device) -> float | None:
    """The most memory that this process's tensors have taken on a GPU, in MiB; None on a CPU."""
    if device.type != "cuda":
        return None
    return max(torch.cuda.max_memory_allocated(device) / 2**20, _peaks_before.get(device, 0.0))


@contextmanager
def uncounted(device: torch.device) -> Iterator[None]:
    """Leave out of `device_peak_mib` what is done meanwhile, such as measuring the device."""
    peak = device_peak_mib(device)
    try:
        yield
    finally:
        if peak is not None:
            _peaks_before[device] = peak
            torch.cuda.reset_peak_memory_stats(device)
