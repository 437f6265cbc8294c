"""Which trainings are compared, and the report on them."""

import json
import math
import socket
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from convnets.benchmark.measuring import NUM_TRAINING_IMAGES, NUM_VALIDATION_IMAGES, Task, interleaved, measure
from convnets.files import write_atomically
from convnets.text import as_markdown

NUM_EPOCHS = 10
MODELS: Mapping[str, str] = {"lenet": "LeNet@28", "vgg": "VGG@224", "resnet18": "ResNet18@96"}
# Of one epoch: steps before the measured ones, steps in all (the last is not measured), validation batches.
# On a GPU the first epoch is whole.
SIZES = {"lenet": (30, 469, 78), "vgg": (2, 7, 3), "resnet18": (3, 13, 5)}
QUICK_SIZES = {"lenet": (20, 157, 20), "vgg": (1, 4, 2), "resnet18": (1, 6, 2)}
GPU_SIZE = (100, 469, 78)
WARM_UP_COMPILED = 3  # more: the first steps of a compiled network are slow again when a guard fails
CAPTURED = "reduce-overhead"  # the step as a graph of a GPU, which is one launch
BOOK_PACKAGE, FLOOR, FLOOR_BF16 = "d2l", "bare loop", "bare loop, bf16"
CONTENDERS: Mapping[str, Task] = {
    "ours": Task("ours", ""),
    "ours, bf16": Task("ours", "", precision="bf16-mixed"),
    "ours, compiled": Task("ours", "", compile=True),
    "ours, bf16, compiled": Task("ours", "", precision="bf16-mixed", compile=True),
    "ours, 39 steps at once": Task("ours", "", steps_per_execution=39),
    "ours, bf16, compiled, 39 at once": Task("ours", "", precision="bf16-mixed", compile=True, steps_per_execution=39),
    "ours, captured, 39 at once": Task("ours", "", compile=CAPTURED, steps_per_execution=39),
    "Lightning as customary": Task("customary", ""),
    BOOK_PACKAGE: Task("d2l", ""),
    FLOOR: Task("bare", ""),
    FLOOR_BF16: Task("bare", "", precision="bf16-mixed"),
}
QUICK = {
    "lenet": ("ours", "ours, captured, 39 at once", "Lightning as customary", BOOK_PACKAGE, FLOOR),
    "vgg": ("ours", "ours, bf16"),
    "resnet18": ("ours", "ours, bf16", FLOOR),
}
FLOORS = {"32-true": FLOOR, "bf16-mixed": FLOOR_BF16}
COLUMNS = ("", "n", "images/s", "/ d2l", "/ bare loop", "of peak", "imports", "to the first step", "recipe", "memory")
NAMES = {"32-true": ("float32", "tf32"), "bf16-mixed": ("bf16", "bf16")}  # of precisions, on a CPU and on a GPU
GPU_COLUMNS = ("launches waited for, %",)  # and the memory is the GPU's
GROWTH = "growth: "
LAUNCHES = ", launches"  # of a model's group
QUANTITIES = {"images/s": "images_per_second", "memory, MiB": "peak_mib", "added memory, MiB": "data_path_mib"}
MOST_OTHERS_MAY_TAKE = 0.05  # of the processors, before a measurement is doubted


@dataclass
class Measurement:
    """One process's figures, of one repetition."""

    group: str
    label: str
    repetition: int
    task: Task
    figures: dict[str, Any]


class Benchmark:
    """Measures into a folder, whose benchmark.json and benchmark.md are whole after each measurement.

    Args:
        say: is called with a line for each measurement.
        data_dir: the folder of Fashion-MNIST's files; None for the usual one.
    """

    def __init__(self, folder: Path, say: Callable[[str], None], data_dir: Path | None = None) -> None:
        self.folder = folder
        self.say = say
        self.data_dir = None if data_dir is None else str(data_dir.expanduser().absolute())
        self.measurements: list[Measurement] = []
        folder.mkdir(parents=True)
        self.machine = measure(Task("machine", "", data_dir=self.data_dir))
        if "error" in self.machine:
            raise RuntimeError(f"The machine could not be measured:\n{self.machine['error']}")
        self.machine |= {"host": socket.gethostname(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}

    def compare(self, models: Sequence[str], labels: Sequence[str] | None, num_repetitions: int, quick: bool) -> None:
        """Measure the contenders on each model, interleaved; and the whole recipe, where that takes minutes."""
        for model in models:
            chosen = labels or (QUICK[model] if quick else CONTENDERS)
            tasks = {label: self._sized(CONTENDERS[label], model, quick) for label in chosen}
            for label, task in list(tasks.items()):
                if why := self._why_left_out(task):
                    self.say(f"{model}: {label} is left out: {why}.")
                    del tasks[label]
            self._measure_all(model, tasks, num_repetitions)
            if self.machine["on_gpu"]:
                ours = {label: task for label, task in tasks.items() if task.contender == "ours"}
                traced = {label: replace(task, contender="launches") for label, task in ours.items()}
                self._measure_all(f"{model}{LAUNCHES}", traced, 1)
            if not quick and (self.machine["on_gpu"] or model == "lenet"):
                for label, task in tasks.items():
                    tasks[label] = replace(task, num_epochs=NUM_EPOCHS, num_steps=None, num_val_batches=None)
                self._measure_all(f"{model}, whole recipe", tasks, 1)

    def _sized(self, task: Task, model: str, quick: bool) -> Task:
        """The task with as many steps as take seconds on this machine, in whole executions."""
        sizes = GPU_SIZE if self.machine["on_gpu"] else (QUICK_SIZES if quick else SIZES)[model]
        warm_up, steps = (math.ceil(size / task.steps_per_execution) * task.steps_per_execution for size in sizes[:2])
        more = max(WARM_UP_COMPILED - warm_up, 0) if task.compile else 0
        return replace(task, model=model, num_warm_up=warm_up + more, num_steps=steps + more, num_val_batches=sizes[2])

    def _why_left_out(self, task: Task) -> str | None:
        if task.compile == CAPTURED and not self.machine["on_gpu"]:
            return "steps are captured on a GPU only"
        num_measured = int(task.num_steps or 0) - task.steps_per_execution - task.num_warm_up
        return None if num_measured > 0 else "too few steps are measured for it"

    def grow(self, num_repetitions: int) -> None:
        """Measure how pace and memory change with batch size, image size, ranks and workers, on LeNet; draw it."""
        from convnets.benchmark.figure import growth  # imports matplotlib
        from convnets.plots import as_png

        sized = Task("ours", "lenet", num_warm_up=10, num_steps=100, num_val_batches=2)
        curves = {
            "batch size": [
                (size, replace(sized, batch_size=size, num_warm_up=5, num_steps=5 + max(20_000 // size, 8)))
                for size in (32, 128, 512, 1024, 4096)
            ],
            "image size": [
                (size, replace(sized, resize=size, num_warm_up=3, num_steps=3 + max(4_000 // size, 10)))
                for size in (28, 56, 96, 160, 224)
            ],
            "processes": [(ranks, replace(sized, num_ranks=ranks)) for ranks in (1, 2)],
            "workers (customary)": [
                (workers, replace(sized, contender="customary", num_workers=workers)) for workers in (0, 1, 2, 4)
            ],
            "image size (data only)": [
                (size, replace(sized, contender="data path", resize=size)) for size in (28, 96, 224)
            ],
        }
        for name, tasks in curves.items():
            self._measure_all(f"{GROWTH}{name}", {str(place): task for place, task in tasks}, num_repetitions)
        drawn = {group.removeprefix(GROWTH): self._quantities(group) for group in self._growth()}
        write_atomically(self.folder / "growth.png", as_png(growth(drawn), dpi=120))

    def _measure_all(self, group: str, tasks: Mapping[str, Task], num_repetitions: int) -> None:
        """Measure the tasks, by their labels, and write all that there is after each."""
        for repetition, label in interleaved(list(tasks), num_repetitions):
            task = replace(tasks[label], data_dir=self.data_dir)
            figures = measure(task)
            self.measurements.append(Measurement(group, label, repetition, task, figures))
            names = ("images_per_second", "data_path_mib", "launches_waited_percent")
            pace = figures.get("error") or ", ".join(
                f"{n} {figures[n]:,.1f}" for n in names if figures.get(n) is not None
            )
            self.say(f"{group}: {label}, repetition {repetition + 1}: {pace}")
            write_atomically(self.folder / "benchmark.json", self.record() + "\n")
            write_atomically(self.folder / "benchmark.md", "\n".join(self.report()) + "\n")

    def record(self) -> str:
        """The machine and all measurements, as JSON."""
        measurements = [asdict(measurement) for measurement in self.measurements]
        return json.dumps({"machine": self.machine, "measurements": measurements}, indent=1)

    def report(self) -> Iterator[str]:
        """Lines of Markdown."""
        machine = self.machine
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        yield f"# Benchmark, {machine['date']}"
        yield ""
        on_gpu = machine["on_gpu"]
        threads = f"{machine['num_threads']} threads{' beside it' if on_gpu else ''}"
        memory = f"{machine['memory_mib'] / 1024:,.0f} GiB of memory"
        yield f"{machine['device']}, {memory}, {threads}; {versions}. Medians, with lowest and highest."
        products = " and ".join(
            f"{flops / 1e9:,.0f} GFLOP/s in {NAMES[precision][on_gpu]}"
            for precision, flops in machine["peak_flops"].items()
        )
        bandwidth = f"{machine['bytes_a_second'] / 1e9:,.0f} GB/s"
        yield f"Its matrix products reach {products}; a copy in its memory reads and writes {bandwidth}."
        for model, title in MODELS.items():
            if labels := dict.fromkeys(
                m.label for m in self.measurements if m.group == model and "error" not in m.figures
            ):
                rows = [self._comparison(model, label) for label in labels]
                yield from ["", f"## {title}", "", *as_markdown([*COLUMNS, *GPU_COLUMNS] if on_gpu else COLUMNS, rows)]
        if growth := self._growth():
            yield from ["", "![images per second and memory](growth.png)"]
        for group in growth:
            quantities = self._quantities(group)
            places = list(next(iter(quantities.values()), {}))
            rows = [[name, *(spread(values[place], ",.0f") for place in places)] for name, values in quantities.items()]
            yield from ["", f"## By {group.removeprefix(GROWTH)}", "", *as_markdown(["", *places], rows)]
        shares = [(m.figures.get("others_share", 0), f"{m.group}, {m.label}") for m in self.measurements]
        if busy := [one for one in shares if one[0] > MOST_OTHERS_MAY_TAKE]:
            yield ""
            yield (
                f"**The machine was busy**: in {len(busy)} of {len(shares)} measurements others took more than "
                f"{MOST_OTHERS_MAY_TAKE:.0%} of its processors, at most {max(busy)[0]:.0%} ({max(busy)[1]}). Such "
                "paces are too low, and their ratios not to be trusted."
            )
        if errors := {f"{m.group}, {m.label}": m.figures["error"] for m in self.measurements if "error" in m.figures}:
            yield from ["", "## Not measured", "", *(f"- {what}: {why}" for what, why in errors.items())]

    def of(self, group: str, label: str, name: str) -> dict[int, float]:
        """A figure of all repetitions that have it."""
        return {
            measurement.repetition: measurement.figures[name]
            for measurement in self.measurements
            if (measurement.group, measurement.label) == (group, label) and name in measurement.figures
        }

    def _comparison(self, model: str, label: str) -> list[str]:
        """The cells of `COLUMNS`."""
        task = CONTENDERS[label]
        pace, imports, first, memory = (
            self.of(model, label, name)
            for name in ("images_per_second", "import_seconds", "first_step_seconds", "peak_mib")
        )
        on_gpu, waited = self.machine["on_gpu"], self.of(f"{model}{LAUNCHES}", label, "launches_waited_percent")
        flops = statistics.median(pace.values()) * self.machine["flops_an_image"][model]
        return [
            label,
            str(len(pace)),
            spread(pace.values(), ",.0f"),
            self._ratio(model, label, BOOK_PACKAGE),
            "" if task.compile else self._ratio(model, label, FLOORS[task.precision]),
            f"{flops / self.machine['peak_flops'][task.precision]:.1%}",
            f"{statistics.median(imports.values()):.1f} s",
            f"+ {statistics.median(first[repetition] - imports[repetition] for repetition in first):.1f} s",
            self._recipe(model, label),
            f"{statistics.median(memory.values()):,.0f} MiB",
            *([spread([percent for percent in waited.values() if percent is not None], ".0f")] if on_gpu else []),
        ]

    def _ratio(self, model: str, label: str, other: str) -> str:
        """The pace in units of the other's, within each repetition."""
        ours, theirs = (self.of(model, name, "images_per_second") for name in (label, other))
        return spread([ours[i] / theirs[i] for i in ours if i in theirs], ".2f") if label != other else ""

    def _recipe(self, model: str, label: str) -> str:
        """Seconds of ten epochs, from the command to the end; beside ≈ what the paces come to."""
        if whole := self.of(f"{model}, whole recipe", label, "seconds"):
            return f"{statistics.median(whole.values()):,.0f} s"
        names = ("images_per_second", "val_images_per_second", "first_step_seconds")
        figures = [self.of(model, label, name).values() for name in names]
        if not all(figures):
            return ""
        pace, val_pace, first = map(statistics.median, figures)
        epoch = NUM_TRAINING_IMAGES / pace + NUM_VALIDATION_IMAGES / val_pace
        return f"≈ {first + NUM_EPOCHS * epoch:,.0f} s"

    def _growth(self) -> list[str]:
        """The curves that were measured."""
        return list(dict.fromkeys(m.group for m in self.measurements if m.group.startswith(GROWTH)))

    def _quantities(self, group: str) -> dict[str, dict[str, list[float]]]:
        """Of each quantity that was measured: the values at each place of the curve."""
        places = dict.fromkeys(m.label for m in self.measurements if m.group == group)
        found = {
            heading: {place: list(self.of(group, place, name).values()) for place in places}
            for heading, name in QUANTITIES.items()
        }
        return {heading: values for heading, values in found.items() if any(values.values())}


def spread(values: Iterable[float], spec: str) -> str:
    """The median, with the lowest and highest of several values; empty where there is none."""
    values = sorted(values)
    if not values:
        return ""
    middle = f"{statistics.median(values):{spec}}"
    return middle if len(values) == 1 else f"{middle} ({values[0]:{spec}} to {values[-1]:{spec}})"
