"""Train the book's recipes, and compare their accuracy with what the book published."""

import copy
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig

from convnets.configuration.content import NOT_RECIPE, differences
from convnets.configuration.rules import ConfigurationError
from convnets.runs.run import Run
from convnets.text import count, duration
from convnets.training.building import build_classifier, build_datamodule, build_trainer
from convnets.training.command import compose
from convnets.training.console import quieten_lightning
from convnets.training.train import train

PRECISION = {"trainer.precision"}  # a change of it is no other recipe: it is compared with the book, and named
NUM_TRAINING_IMAGES, NUM_TEST_IMAGES = 60_000, 10_000


@dataclass(frozen=True)
class Reproduction:
    """Final validation accuracies of one recipe over seeds, beside the published range (None where there is none)."""

    recipe: str
    accuracies: tuple[float, ...]
    published: tuple[float, float] | None
    seconds: float

    @property
    def verdict(self) -> str:
        """Where the mean stands: inside, above or below what was published."""
        if self.published is None:
            return "nothing published to compare with"
        lowest, highest = self.published
        mean = statistics.mean(self.accuracies)
        return "below" if mean < lowest else "above" if mean > highest else "inside"

    def __str__(self) -> str:
        spread = f" ± {statistics.stdev(self.accuracies):.4f}" if len(self.accuracies) > 1 else ""
        book = "the book: {:.3f} to {:.3f}; ".format(*self.published) if self.published else ""
        return (
            f"{self.recipe}: val accuracy {statistics.mean(self.accuracies):.4f}{spread}, mean"
            f"{' ± sd' if spread else ''} of {count(len(self.accuracies), 'seed')}; "
            f"{book}{self.verdict}; {duration(self.seconds)} of training"
        )


class Plan:
    """A recipe over seeds: which runs are done, and what the others cost.

    Args:
        overrides: changes to the book's recipe, such as trainer.precision=bf16-mixed.

    Raises:
        ConfigurationError: an override is wrong.
    """

    def __init__(self, recipe: str, num_seeds: int, overrides: Sequence[str], runs_dir: Path) -> None:
        if fixed := [word for word in overrides if word.lstrip("+").startswith(("seed=", "data.seed=", "run_name="))]:
            raise ConfigurationError(f"{fixed[0]}: reproduce.py gives each run its seed and folder; see --seeds.")
        self.recipe = " ".join([recipe, *overrides])
        self.runs: list[tuple[Run, DictConfig]] = []
        for seed in range(num_seeds):
            config, name = compose([f"experiment=book/{recipe}", f"seed={seed}", *overrides])
            self.runs.append((Run(runs_dir / name), config))
        published, _ = compose([f"experiment=book/{recipe}"])
        is_changed = not set(differences(self.runs[0][1], published)) <= NOT_RECIPE | PRECISION
        has_range = published.expected is not None and not is_changed
        self.published: tuple[float, float] | None = tuple(published.expected) if has_range else None

    @property
    def missing(self) -> list[tuple[Run, DictConfig]]:
        """The runs that are not finished."""
        return [(run, config) for run, config in self.runs if not run.finished_result(config)]

    def cost(self) -> str:
        """Say how many runs are to be trained, and about how long that takes on this machine."""
        missing, runs_dir = self.missing, self.runs[0][0].path.parent
        finished = [run.result["seconds"] for run, config in self.runs if (run, config) not in missing]
        text = f"{self.recipe}: {count(len(self.runs), 'run')}, {len(finished)} already in {runs_dir}"
        if not missing:
            return f"{text}: nothing to train"
        seconds = statistics.median(finished) if finished else measured_seconds(missing[0][1])
        return f"{text}; training the other {len(missing)} takes about {duration(len(missing) * seconds)}"

    def carry_out(self) -> Reproduction:
        """Train what is missing."""
        results = [run.finished_result(config) or train(config, run.path) for run, config in self.runs]
        accuracies = tuple(result["metrics"]["val/accuracy"] for result in results)
        return Reproduction(self.recipe, accuracies, self.published, sum(result["seconds"] for result in results))


class _StepClock(Callback):
    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        """Wait for the device, and note the time."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def measured_seconds(config: DictConfig) -> float:
    """Estimate a run's duration from a few of its steps on packaged images; validation counts a third of a step."""
    trial = copy.deepcopy(config)
    trial.callbacks, trial.logger, trial.steps_per_execution = {}, {}, 1
    trial.trainer.update(max_epochs=1, limit_train_batches=6, limit_val_batches=1)
    trial.data._target_ = "convnets.data.FashionMNISTSampleDataModule"
    trial.data.pop("dir", None)
    clock = _StepClock()
    with tempfile.TemporaryDirectory() as folder, quieten_lightning():
        datamodule = build_datamodule(trial)
        trainer = build_trainer(trial, Path(folder), [clock])
        trainer.fit(build_classifier(trial, datamodule), datamodule=datamodule)
    seconds_per_step = (clock.times[-1] - clock.times[1]) / (len(clock.times) - 2)
    steps = _num_batches(NUM_TRAINING_IMAGES, config, config.trainer.limit_train_batches)
    steps += _num_batches(NUM_TEST_IMAGES, config, config.trainer.limit_val_batches) / 3
    return steps * seconds_per_step * int(config.trainer.max_epochs)


def _num_batches(num_images: int, config: DictConfig, limit: float | None) -> float:
    """Batches of an epoch, at most `limit`: a number of batches, or a share of them."""
    num_batches = math.ceil(num_images / config.data.batch_size)
    return min(limit, num_batches) if isinstance(limit, int) else num_batches * (1 if limit is None else limit)


def finished_runs(recipe: str, runs_dir: Path) -> Iterator[Run]:
    """The finished runs of a book's recipe in a folder, of any seed and precision, by name."""
    published, _ = compose([f"experiment=book/{recipe}"])
    for path in sorted(runs_dir.glob("*/result.json")):
        run = Run(path.parent)
        if run.is_complete() and set(differences(run.config, published)) <= NOT_RECIPE | PRECISION:
            yield run
