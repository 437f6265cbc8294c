"""The device that computes: its memory, what it reaches, how a process is prepared for it, why there is no GPU."""

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER, NONE = -1, 0
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # of products; float32 in any other precision
MEASURING_SECONDS = 0.2
NUM_COPIED_BYTES = {"cuda": 2**30, "cpu": 2**27}  # more than any cache holds
PCI_DEVICES = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY_CLASS = "0x10de", "0x03"  # PCI numbers


def prepare_process(on_gpu: bool, matmul_precision: str, deterministic: bool) -> None:
    """Make those settings of the whole process that speed up training."""
    torch.backends.cudnn.benchmark = on_gpu and not deterministic  # cuDNN tries its algorithms out
    if on_gpu:
        torch.set_float32_matmul_precision(matmul_precision)
        torch.backends.cudnn.allow_tf32 = matmul_precision != "highest"  # convolutions have a switch of their own
    else:
        keep_freed_memory()


def why_no_gpu() -> str:
    """Why torch cannot use an NVIDIA GPU, in its own words: no driver, one too old, a build without CUDA."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        return str(error).partition(". ")[0].strip().rstrip(".")
    return "torch finds none" if not torch.cuda.is_available() else ""


def is_gpu_unused() -> bool:
    """Whether a GPU of NVIDIA's is in the machine, torch cannot use it, and nobody has hidden it from the process."""

    def read(path: Path) -> str:
        try:
            return path.read_text()
        except OSError:
            return ""

    if "CUDA_VISIBLE_DEVICES" in os.environ or torch.cuda.is_available():
        return False
    return any(
        read(device / "vendor").strip() == NVIDIA and read(device / "class").startswith(DISPLAY_CLASS)
        for device in PCI_DEVICES.glob("*")
    )


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


def waiting_for(device: torch.device) -> Callable[[], object]:
    """What waits until the device has done all that it was asked to; of a CPU that is always so."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def measure_flops(device: torch.device, dtype: torch.dtype, seconds: float = MEASURING_SECONDS) -> float:
    """Operations a second of the fastest product of large matrices within so many seconds.

    Measured as a matrix product and as a 1x1 convolution: on a CPU two libraries do these, the second often faster.
    Draws no random numbers, which would change the training.
    """
    size = 4096 if device.type == "cuda" else 1024
    matrix = torch.linspace(-1, 1, size * size, device=device).reshape(size, size).to(dtype)
    side = int(size**0.5)
    images = matrix.reshape(1, side, side, size).permute(0, 3, 1, 2)  # channels last
    products = (lambda: matrix @ matrix, lambda: F.conv2d(images, matrix[:, :, None, None]))
    return 2 * size**3 / min(_fastest(product, device, seconds / len(products)) for product in products)


def measure_bandwidth(device: torch.device, seconds: float = MEASURING_SECONDS) -> float:
    """Bytes a second that the device's memory reads and writes, in the fastest copy of a large tensor."""
    source = torch.zeros(NUM_COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device, seconds)


def _fastest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds that the work takes at best, in as many repetitions as fit into so many seconds, and at least one."""
    wait = waiting_for(device)
    work()
    wait()
    fastest, deadline = float("inf"), time.perf_counter() + seconds
    while (started := time.perf_counter()) < deadline or fastest == float("inf"):
        work()
        wait()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest
