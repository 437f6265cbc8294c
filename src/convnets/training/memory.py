"""The process's memory for tensors on a CPU."""

import ctypes
import os

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
