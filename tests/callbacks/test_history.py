import csv
import math

import lightning
import pytest
import torch
from omegaconf import OmegaConf
from support.breaking import EACH_STEP, KEPT, check_breaks_change_nothing, interrupt, pull_the_plug
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convnets.callbacks import read_checkpoint
from convnets.classifier import Classifier
from convnets.runs.run import Run
from convnets.training.train import train


def rows_in(run_dir):
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_csv_and_tensorboard_hold_the_same_row_an_epoch(small, tmp_path):
    result = train(small("logger=tensorboard", "trainer.max_epochs=3"), tmp_path)
    rows = rows_in(tmp_path)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    events = EventAccumulator(str(tmp_path)).Reload()
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "learning_rate"):
        points = events.Scalars(name)
        assert [point.step for point in points] == [1, 2, 3]
        assert [point.value for point in points] == pytest.approx([float(row[name]) for row in rows])
    assert float(rows[-1]["val/accuracy"]) == result["metrics"]["val/accuracy"]
    assert "hp_metric" not in events.Tags()["scalars"]
    assert float(rows[0]["images_per_second"]) > 0


def test_test_metrics_are_logged_too(small, tmp_path):
    result = train(small("logger=tensorboard", "data.holdout=100"), tmp_path)
    events = EventAccumulator(str(tmp_path)).Reload()
    for name in ("test/loss", "test/accuracy"):
        (point,) = events.Scalars(name)
        assert point.value == pytest.approx(result["metrics"][name])


def test_the_schedule_leaves_the_momentum_alone(small, tmp_path):
    train(small("schedule=onecycle", "checkpoint.keep=true", "optimizer.momentum=0.3"), tmp_path)
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["momentum"] == 0.3


def test_the_schedule_moves_the_learning_rate_over_the_whole_training(small, tmp_path):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule, one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6), []
    for _ in range(5):
        one_cycle.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = {
        "constant": [0.1, 0.1],
        "cosine": [0.075, 0.1 * (1 - math.cos(math.pi / 6)) / 2],
        "onecycle": [one_cycle[2], optimizer.param_groups[0]["lr"]],
    }
    for schedule, rates in expected.items():
        train(small(f"schedule={schedule}"), tmp_path / schedule)
        found = [float(row["learning_rate"]) for row in rows_in(tmp_path / schedule)]
        assert found == pytest.approx(rates, abs=1e-9)


class Rows(lightning.Callback):
    """A user's own: of each row it notes the epoch, whether metrics.csv has it, and how many the checkpoint has."""

    def __init__(self, run_dir):
        self.run_dir = run_dir
        self.found = []

    def on_epoch_row(self, trainer, classifier, row):
        path = self.run_dir / "checkpoints" / "last.ckpt"
        saved = read_checkpoint(path)["callbacks"]["History"]["rows"] if path.exists() else []
        is_written = float(rows_in(self.run_dir)[-1]["val/loss"]) == row["val/loss"]
        self.found.append((row["epoch"], is_written, len(saved)))


@pytest.mark.parametrize("place", [0, 100])
def test_an_epochs_row_is_handed_on_wherever_a_callback_stands(small, tmp_path, monkeypatch, place):
    rows = Rows(tmp_path)
    monkeypatch.setattr(Classifier, "on_fit_start", lambda self: self.trainer.callbacks.insert(place, rows))
    train(small(), tmp_path)
    assert rows.found == [(1, True, 0), (2, True, 1)]


class Logs(lightning.Callback):
    """A user's own: logs in each way that Lightning has, one name from the second epoch on."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        loss = outputs["loss"]
        self.log("my/mean", loss, on_epoch=True)
        self.log("my/highest", loss, on_epoch=True, reduce_fx="max")
        self.log("my/last", loss)
        if batch_idx == 0:
            pl_module.log("my/first", loss, on_step=False, on_epoch=True)
        pl_module.log("unseen", loss, logger=False)

    def on_validation_epoch_end(self, trainer, pl_module):
        self.log("my/val", 7.0)

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.log("my/late", 5.0)


LOGS = {"callbacks": {"mine": {"_target_": f"{__name__}.Logs"}}}


def test_what_a_callback_logs_is_in_the_row_and_exact_after_breaks(small, tmp_path):
    config = small("logger=tensorboard", KEPT, EACH_STEP, "trainer.max_epochs=3", "trainer.limit_train_batches=null")
    config = OmegaConf.merge(config, LOGS)
    check_breaks_change_nothing(config, tmp_path, {3: pull_the_plug, 11: interrupt, 17: pull_the_plug})
    run = Run(tmp_path / "broken")
    first, second, third = run.history
    for row in run.history:
        assert row["my/mean"] == pytest.approx(row["train/loss"], rel=1e-6)
        assert max(row["my/mean"], row["my/last"], row["my/first"]) <= row["my/highest"]
        assert row["my/val"] == 7
        assert "unseen" not in row
    assert ("my/late" in first, second["my/late"], "my/late" in third) == (False, 5, False)
    assert run.metrics["my/val"] == 7
    points = EventAccumulator(str(run.path)).Reload().Scalars("my/mean")
    assert [(point.step, point.value) for point in points] == [
        (epoch, pytest.approx(row["my/mean"])) for epoch, row in enumerate(run.history, 1)
    ]


def test_a_name_that_the_row_has_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(Logs, "on_train_epoch_end", lambda self, *_: self.log("learning_rate", 1.0))
    with pytest.raises(
        ValueError, match=r"has logged learning_rate, which metrics\.csv has already: log it by another"
    ):
        train(OmegaConf.merge(small("trainer.max_epochs=1"), LOGS), tmp_path)
