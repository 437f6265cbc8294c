import os
import platform
import subprocess
import sys

import pytest
import torch

from convnets import device
from convnets.device import (
    device_peak_mib,
    is_gpu_unused,
    measure_bandwidth,
    measure_flops,
    prepare_process,
    reset_device_peak,
    uncounted,
    why_no_gpu,
)

# Steps with a tensor larger than glibc ever keeps by itself; what the cheapest of the last ones fetches in pages: until
# the holes that it leaves have settled, some are fetched anew.
PROGRAM = """
import resource, torch
from convnets.device import keep_freed_memory
kept = keep_freed_memory()
faults = []
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20_000_000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults[5:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(("variables", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "2"}, False)])
def test_freed_memory_is_used_again_unless_the_user_tunes_it(variables, kept):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    was_kept, faults = finished.stdout.split()
    assert was_kept == str(kept)
    assert (int(faults) < 100) == kept  # 80 MB are 20,000 pages


def test_the_peak_of_a_gpu_leaves_out_what_is_measured_meanwhile(monkeypatch):
    peak = {"bytes": 0}
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak["bytes"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.update(bytes=2**20))
    gpu = torch.device("cuda", 0)
    reset_device_peak(gpu)
    peak["bytes"] = 5 * 2**20
    with uncounted(gpu):
        peak["bytes"] = 100 * 2**20
    assert device_peak_mib(gpu) == 5
    peak["bytes"] = 7 * 2**20
    assert device_peak_mib(gpu) == 7
    reset_device_peak(gpu)
    assert device_peak_mib(gpu) == 1
    assert device_peak_mib(torch.device("cpu")) is None


@pytest.mark.parametrize(("precision", "in_tf32"), [("high", True), ("highest", False)])
def test_matrix_products_and_convolutions_are_in_tf32_together(precision, in_tf32):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    try:
        prepare_process(True, precision, deterministic=False)
        assert torch.get_float32_matmul_precision() == precision
        assert torch.backends.cudnn.allow_tf32 == in_tf32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1:]


def test_what_the_device_reaches_is_its_best_pace(monkeypatch):
    """By a clock: the work takes 4 s, 2 s and 3 s, then the time is up."""
    ends = iter([0, *(0, 4), *(4, 6), *(6, 9), 99] * 3)
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(ends))
    monkeypatch.setattr(device, "NUM_COPIED_BYTES", {"cpu": 1000})
    assert measure_bandwidth(torch.device("cpu"), seconds=10) == 2 * 1000 / 2  # each byte is read and written
    assert measure_flops(torch.device("cpu"), torch.float32, seconds=20) == 2 * 1024**3 / 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_torch_cannot_use_is_noticed_and_why(monkeypatch, tmp_path):
    assert why_no_gpu() in ("Found no NVIDIA driver on your system", "Torch not compiled with CUDA enabled")
    monkeypatch.setattr(device, "PCI_DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for vendor, kind in (("0x8086", "0x030000"), ("0x10de", "0x020700")):  # another maker's GPU, a network adapter
        folder = tmp_path / f"{vendor}-{kind}"
        folder.mkdir()
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    assert not is_gpu_unused()
    (tmp_path / "0x10de-0x020700" / "class").write_text("0x030200\n")
    assert is_gpu_unused()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a sweep's job, or whoever means it
    assert not is_gpu_unused()
