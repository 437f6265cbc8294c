import json
import mmap
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from convnets.benchmark import measuring, suite
from convnets.benchmark.measuring import Marks, Task, interleaved, measure, peak_mib, reset_peak
from convnets.benchmark.suite import Benchmark, Measurement, spread

SAMPLE = Task("ours", "lenet", data="fashion_mnist_sample", num_steps=4, num_warm_up=2, num_val_batches=1)
MACHINE = {
    "device": "a processor",
    "on_gpu": False,
    "memory_mib": 8192,
    "bytes_a_second": 2e10,
    "num_threads": 2,
    "versions": {"torch": "2.15.0"},
    "flops_an_image": {"lenet": 2e6, "vgg": 1e9, "resnet18": 1e9},
    "peak_flops": {"32-true": 1e11, "bf16-mixed": 4e11},
}


@pytest.mark.parametrize("contender", ["ours", "bare", "customary"])
def test_a_contender_trains_and_tells_its_pace(contender):
    figures = measure(replace(SAMPLE, contender=contender))
    names = {"images_per_second", "import_seconds", "first_step_seconds", "peak_mib", "seconds", "others_share"}
    assert set(figures) == names, figures
    assert 0 <= figures["others_share"] < 1
    assert figures["images_per_second"] > 10
    assert 0 < figures["import_seconds"] < figures["first_step_seconds"] < figures["seconds"]
    assert figures["peak_mib"] > 100


def test_what_cannot_be_measured_says_why():
    figures = measure(replace(SAMPLE, model="lenett"))
    assert "There is no model=lenett. Did you mean model=lenet?" in figures["error"]


def test_the_data_path_adds_less_memory_than_the_resized_images_of_an_epoch_take():
    # 1,000 images of 224 pixels are 191 MiB as floats; a batch of 128 is 24 MiB, and 6 as bytes.
    figures = measure(replace(SAMPLE, contender="data path", resize=224))
    assert 24 < figures["data_path_mib"] < 150


def test_the_peak_starts_anew():
    with mmap.mmap(-1, 200 * 2**20) as large:  # not of malloc, which keeps what is freed once a test has trained
        for page in range(0, len(large), mmap.PAGESIZE):
            large[page] = 1
    before = peak_mib()
    reset_peak()
    assert peak_mib() < before - 150


def test_the_window_is_between_the_last_warm_up_step_and_the_last_step_but_one(monkeypatch):
    marks = Marks(replace(SAMPLE, num_steps=6, num_warm_up=2, num_val_batches=3), started=-10.0)
    marks._wait = lambda: None
    clock = iter([1.0, 4.0, 10.0, 20.0, 21.0, 23.0])
    monkeypatch.setattr("convnets.benchmark.measuring.time.monotonic", lambda: next(clock))
    for _ in range(9):  # the window is of the first epoch: later steps do not count
        marks._step()
    for _ in range(5):
        marks.validation_batch()
    figures = marks.figures()
    assert figures["images_per_second"] == 3 * 128 / 6
    assert figures["val_images_per_second"] == 1 * 128 / 2
    assert figures["first_step_seconds"] == 11


def test_repetitions_are_interleaved_and_begin_elsewhere():
    a, b, c = (Task("ours", model) for model in "abc")
    assert interleaved([a, b, c], 2) == [(0, a), (0, b), (0, c), (1, b), (1, c), (1, a)]


def test_spread():
    assert [spread(values, ".1f") for values in ([], [1], [3, 1, 8])] == ["", "1.0", "3.0 (1.0 to 8.0)"]


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    paces = {"ours": [400, 300], "d2l": [100, 50], "bare loop": [500, 400]}

    def measured(task):
        if task.contender == "machine":
            return dict(MACHINE)
        label = next(label for label, shipped in suite.CONTENDERS.items() if shipped.contender == task.contender)
        if task.contender == "customary":
            return {"error": "no such thing"}
        pace = paces[label].pop(0) if task.num_epochs == 1 else 1
        return {
            "images_per_second": pace, "val_images_per_second": 1000, "import_seconds": 3, "first_step_seconds": 4,
            "peak_mib": 700, "seconds": 77,
        }  # fmt: skip

    monkeypatch.setattr(suite, "measure", measured)
    return Benchmark(tmp_path / "benchmarks" / "now", lambda line: None)


def cells(report, label):
    (row,) = (line for line in report if re.match(rf"\| {label} +\|", line))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_ratios_are_taken_within_a_repetition(benchmark):
    benchmark.compare(["lenet"], ["ours", "Lightning as customary", "d2l", "bare loop"], 2, quick=False)
    report = (benchmark.folder / "benchmark.md").read_text().splitlines()
    row = cells(report, "ours")
    assert row[1:5] == ["2", "350 (300 to 400)", "5.00 (4.00 to 6.00)", "0.78 (0.75 to 0.80)"]
    assert row[5:] == ["0.7%", "3.0 s", "+ 1.0 s", "77 s", "700 MiB"]
    assert cells(report, "d2l")[3] == ""
    assert "- lenet, Lightning as customary: no such thing" in report
    raw = json.loads((benchmark.folder / "benchmark.json").read_text())
    assert len(raw["measurements"]) == len(benchmark.measurements) == 4 * 3


def test_a_contender_with_too_few_measured_steps_is_named_and_left_out(benchmark):
    lines = []
    benchmark.say = lines.append
    benchmark.compare(["vgg"], ["ours, 39 steps at once"], 1, quick=False)
    assert lines == ["vgg: ours, 39 steps at once is left out: too few steps are measured for it."]
    sized = benchmark._sized(suite.CONTENDERS["ours, 39 steps at once"], "lenet", quick=False)
    assert (sized.num_warm_up, sized.num_steps, Marks(sized, 0).num_measured) == (39, 507, 468)


def test_a_recipe_that_was_not_run_is_estimated_and_marked(benchmark):
    figures = {"images_per_second": 600, "val_images_per_second": 1000, "first_step_seconds": 5, "import_seconds": 3,
               "peak_mib": 1}  # fmt: skip
    benchmark.measurements = [Measurement("vgg", "ours", 0, replace(SAMPLE, model="vgg"), figures)]
    assert cells([*benchmark.report()], "ours")[8] == "≈ 1,105 s"  # 5 + 10 * (60,000 / 600 + 10,000 / 1,000)


def test_the_report_says_that_the_machine_was_busy(benchmark):
    for share in (0.04, 0.06, 0.5):
        benchmark.measurements.append(Measurement("vgg", "ours", 0, SAMPLE, {"error": "", "others_share": share}))
    (line,) = (line for line in benchmark.report() if "busy" in line)
    assert "in 2 of 3 measurements others took more than 5% of its processors, at most 50% (vgg, ours)" in line


def test_the_work_of_other_programs_is_noticed(monkeypatch, tmp_path):
    (tmp_path / "rests.py").write_text(
        "import pathlib, sys, time; time.sleep(2); pathlib.Path(sys.argv[3]).write_text('{}')"
    )
    monkeypatch.setattr(measuring, "PROGRAM", tmp_path / "rests.py")
    program = "import time; end = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", program]) as other:
        figures = measure(SAMPLE)
        other.kill()
    assert figures["others_share"] > 0.1


def test_growth_is_a_table_of_each_quantity(benchmark, monkeypatch):
    monkeypatch.setattr(suite, "measure", lambda task: {"images_per_second": task.batch_size, "peak_mib": 5})
    benchmark.grow(1)
    report = re.sub(" +", " ", "\n".join(benchmark.report()))
    assert "## By batch size\n\n| | 32 | 128 | 512 | 1024 | 4096 |\n" in report
    assert "| images/s | 32 | 128 | 512 | 1,024 | 4,096 |" in report
    assert "## By workers (customary)" in report
    assert (benchmark.folder / "growth.png").read_bytes()[1:4] == b"PNG"


def test_on_a_gpu_the_report_is_of_the_device(benchmark, monkeypatch):
    """Stand-in: figures as processes on one would return them."""
    gpu = {**MACHINE, "device": "a GPU", "on_gpu": True, "memory_mib": 81920, "bytes_a_second": 3e12}
    benchmark.machine = {**gpu, "peak_flops": {"32-true": 4e14, "bf16-mixed": 7e14}, "date": "2026-11-27"}
    asked = []

    def measured(task):
        asked.append(task)
        if task.contender == "launches":
            return {"launches_waited_percent": 62.4 if task.compile is False else None}
        return {"images_per_second": 1e5, "import_seconds": 3, "first_step_seconds": 4, "peak_mib": 300, "seconds": 9}

    monkeypatch.setattr(suite, "measure", measured)
    benchmark.data_dir = "/a folder"
    benchmark.compare(["lenet"], ["ours", "ours, captured, 39 at once", "bare loop"], 1, quick=True)
    report = (benchmark.folder / "benchmark.md").read_text()
    assert "a GPU, 80 GiB of memory, 2 threads beside it; torch 2.15.0." in report
    assert (
        "reach 400,000 GFLOP/s in tf32 and 700,000 GFLOP/s in bf16; a copy in its memory reads and writes 3,000 GB/s."
        in report
    )
    assert cells(report.splitlines(), "ours")[-2:] == ["300 MiB", "62"]
    assert cells(report.splitlines(), "ours, captured, 39 at once")[-2:] == ["300 MiB", ""]
    assert {task.data_dir for task in asked} == {"/a folder"}
    assert [task.compile for task in asked if task.contender == "launches"] == [False, "reduce-overhead"]
    assert json.loads(benchmark.record())["machine"]["memory_mib"] == 81920


def test_steps_are_captured_on_a_gpu_only(benchmark):
    lines = []
    benchmark.say = lines.append
    benchmark.compare(["lenet"], ["ours, captured, 39 at once"], 1, quick=True)
    assert lines == ["lenet: ours, captured, 39 at once is left out: steps are captured on a GPU only."]
