"""Trainings that are broken off, and what must be the same after them."""

import csv
import os
import signal

import lightning
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convnets.callbacks import Interrupted, read_checkpoint
from convnets.runs.run import Run
from convnets.training.train import train

KEPT = "checkpoint.keep=true"
EACH_STEP = "checkpoint.every_seconds=1e-9"


class PulledPlugError(Exception):
    """Ends a training as SIGKILL does: nothing more is saved."""


class At(lightning.Callback):
    """Does something after a training step, before that step's checkpoint."""

    def __init__(self, step, action):
        self.step = step
        self.action = action

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self.step:
            self.action()


def pull_the_plug():
    raise PulledPlugError


def interrupt():
    os.kill(os.getpid(), signal.SIGTERM)


def train_through(config, path, breaks):
    """Train, broken off by each action in turn: {step: action}."""
    for step, action in breaks.items():
        with pytest.raises((PulledPlugError, Interrupted)):
            train(config, path, [At(step, action)])
    return train(config, path)


def without_times(record):
    return {key: value for key, value in record.items() if "second" not in key and key != "finished"}


def rows_of(path):
    """The rows of metrics.csv, without how long they took."""
    with (path / "metrics.csv").open() as file:
        return [without_times(row) for row in csv.DictReader(file)]


def everything(path):
    """All that must be the same: weights, optimizer, counters, rows, result, TensorBoard's points."""
    checkpoint = read_checkpoint(path / "checkpoints" / "last.ckpt")
    rows = rows_of(path)
    events = EventAccumulator(str(path)).Reload()
    points = {tag: [(p.step, p.value) for p in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return {
        "weights": [file.read_bytes() for file in sorted(path.glob("weights*.safetensors"))],
        "optimizer": repr(checkpoint["optimizer_states"]),
        "schedule": repr(checkpoint["lr_schedulers"]),
        "counters": checkpoint["loops"],
        "rows": rows,
        "result": without_times(Run(path).result),
        "points": without_times(points),
    }


def check_breaks_change_nothing(config, tmp_path, breaks):
    """Compare an uninterrupted training with one that each action breaks off in turn: {step: action}."""
    train(config, tmp_path / "whole")
    expected = everything(tmp_path / "whole")
    train_through(config, tmp_path / "broken", breaks)
    assert everything(tmp_path / "broken") == expected
