"""Train the book's recipes, and hold their accuracy against what the book published."""

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
from omegaconf import DictConfig, OmegaConf

from convnets.configuration.content import NOT_RECIPE, differences
from convnets.configuration.rules import ConfigurationError
from convnets.runs.run import Run
from convnets.text import count, duration
from convnets.training.building import build_classifier, build_datamodule, build_trainer
from convnets.training.command import compose
from convnets.training.console import quieten_lightning
from convnets.training.train import train

PRECISION = {"trainer.precision"}  # is compared with what was published, and said
NUM_TRAINING_IMAGES, NUM_TEST_IMAGES = 60_000, 10_000


@dataclass(frozen=True)
class Reproduction:
    """Final validation accuracies of one recipe over seeds, beside the published range (None for another recipe)."""

    recipe: str
    accuracies: tuple[float, ...]
    published: tuple[float, float] | None
    seconds: float

    @property
    def verdict(self) -> str:
        """Where the mean stands: inside, above or below what was published."""
        if self.published is None:
            return "not the book's recipe, so not compared"
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
        changed = set(differences(_plain(self.runs[0][1]), _plain(published))) - NOT_RECIPE - PRECISION
        self.published: tuple[float, float] | None = None if changed else tuple(published.expected)

    @property
    def missing(self) -> list[tuple[Run, DictConfig]]:
        """The runs that are not finished."""
        return [(run, config) for run, config in self.runs if not run.finished_result(_plain(config))]

    def cost(self) -> str:
        """Say how many runs are to be trained, and about how long that takes on this machine."""
        done = len(self.runs) - len(self.missing)
        text = f"{self.recipe}: {count(len(self.runs), 'run')}, {done} already in {self.runs[0][0].path.parent}"
        if not self.missing:
            return f"{text}: nothing to train"
        finished = [run.result["seconds"] for run, config in self.runs if run.finished_result(_plain(config))]
        seconds = statistics.median(finished) if finished else measured_seconds(self.missing[0][1])
        return f"{text}; training the other {len(self.missing)} takes about {duration(len(self.missing) * seconds)}"

    def carry_out(self) -> Reproduction:
        """Train what is missing."""
        results = [run.finished_result(_plain(config)) or train(config, run.path) for run, config in self.runs]
        return Reproduction(
            self.recipe,
            tuple(result["metrics"]["val/accuracy"] for result in results),
            self.published,
            sum(result["seconds"] for result in results),
        )


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
    changes = {
        "data": {"_target_": "convnets.data.FashionMNISTSampleDataModule"},
        "trainer": {"max_epochs": 1, "limit_train_batches": 6, "limit_val_batches": 1},
        "callbacks": None,
        "logger": None,
        "steps_per_execution": 1,
    }
    trial = OmegaConf.merge(config, changes)
    assert isinstance(trial, DictConfig)
    trial.data.pop("dir", None)
    trial.callbacks, trial.logger = {}, {}
    clock = _StepClock()
    with tempfile.TemporaryDirectory() as folder, quieten_lightning():
        datamodule = build_datamodule(trial)
        trainer = build_trainer(trial, Path(folder), [clock])
        trainer.fit(build_classifier(trial, datamodule), datamodule=datamodule)
    seconds_per_step = (clock.times[-1] - clock.times[1]) / (len(clock.times) - 2)
    batch_size = config.data.batch_size
    steps = _limited(math.ceil(NUM_TRAINING_IMAGES / batch_size), config.trainer.limit_train_batches)
    steps += _limited(math.ceil(NUM_TEST_IMAGES / batch_size), config.trainer.limit_val_batches) / 3
    return steps * seconds_per_step * int(config.trainer.max_epochs)


def _limited(num_batches: int, limit: float | None) -> float:
    if limit is None:
        return num_batches
    return min(limit, num_batches) if isinstance(limit, int) else limit * num_batches


def _plain(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def finished_runs(recipe: str, runs_dir: Path) -> Iterator[Run]:
    """The finished runs of a book's recipe in a folder, of any seed and precision, by name."""
    published, _ = compose([f"experiment=book/{recipe}"])
    for path in sorted(runs_dir.glob("*/result.json")):
        run = Run(path.parent)
        if not run.is_complete():
            continue
        if set(differences(run.config, published)) <= NOT_RECIPE | PRECISION:
            yield run
