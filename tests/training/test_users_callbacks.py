"""Callbacks of Lightning from a user's own file may change what is learned: the reported metrics stay true."""

import itertools
import json

import pytest
from omegaconf import OmegaConf

from convnets.configuration.rules import ConfigurationError
from convnets.results.evaluation import evaluate
from convnets.results.leaderboard import build_leaderboard
from convnets.results.trained_run import TrainedRun as Run
from convnets.runs.run import read_run
from convnets.training.extend import extend
from convnets.training.train import train

LIGHTNING = "lightning.pytorch.callbacks"
STOP = {"_target_": f"{LIGHTNING}.EarlyStopping", "monitor": "val/loss", "patience": 1, "min_delta": 100.0}
CALLBACKS = {
    "early stopping": STOP,
    "moving average": {"_target_": f"{LIGHTNING}.EMAWeightAveraging", "decay": 0.9},
    "average over epochs": {
        "_target_": f"{LIGHTNING}.StochasticWeightAveraging", "swa_lrs": 0.05, "swa_epoch_start": 2,
    },
    "accumulation": {"_target_": f"{LIGHTNING}.GradientAccumulationScheduler", "scheduling": {0: 1, 2: 2}},
}  # fmt: skip
WAYS = {
    "lenet": ("model.activation=relu", "trainer.limit_train_batches=null"),
    "held out": ("model.activation=relu", "trainer.limit_train_batches=null", "data.holdout=200"),
    "batch norm": ("model=bn_lenet", "data.batch_size=32", "trainer.limit_train_batches=2"),
}


def with_callback(config, item):
    changed = OmegaConf.merge(config, {"callbacks": {"mine": item}})
    OmegaConf.update(changed, "trainer.max_epochs", 3)
    return changed


AVERAGES = ("moving average", "average over epochs")


@pytest.mark.parametrize(
    ("name", "way"),
    [*((name, "lenet") for name in CALLBACKS), *itertools.product(AVERAGES, ("held out", "batch norm"))],
)
def test_the_reported_metrics_are_those_of_the_saved_weights_whether_the_end_was_cut_off_or_not(
    small, tmp_path, name, way
):
    config = with_callback(small(*WAYS[way], "checkpoint.keep=true"), CALLBACKS[name])
    result = train(config, tmp_path / "run")
    run = Run(tmp_path / "run", trust=[CALLBACKS[name]["_target_"]])
    evaluation = evaluate(run, "val")
    assert evaluation["accuracy"] == result["metrics"]["val/accuracy"]
    assert evaluation["loss"] == pytest.approx(result["metrics"]["val/loss"], rel=1e-5)
    weights = (tmp_path / "run" / "weights.safetensors").read_bytes()
    (tmp_path / "run" / "result.json").unlink()
    assert train(config, tmp_path / "run")["metrics"] == result["metrics"]
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights


def test_epochs_are_not_added_to_an_average_planned_for_fewer(small, tmp_path):
    config = with_callback(small("checkpoint.keep=true"), CALLBACKS["average over epochs"])
    train(config, tmp_path / "run")
    run = Run(tmp_path / "run", trust=[CALLBACKS["average over epochs"]["_target_"]])
    with pytest.raises(ConfigurationError, match=r"The callback mine of .* may have been planned for 3 epochs"):
        extend(run, ["trainer.max_epochs=6"])
    assert run.result


def test_the_average_is_not_the_last_epochs_weights(small, tmp_path):
    """Otherwise the tests above would compare equal weights."""
    config = with_callback(small("trainer.limit_train_batches=null"), CALLBACKS["average over epochs"])
    result = train(config, tmp_path / "run")
    last = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[-1].split(",")
    assert str(result["metrics"]["val/loss"]) not in last


def test_report_and_leaderboard_say_why_a_run_ended_early(small, tmp_path, capsys):
    result = train(with_callback(small(), STOP), tmp_path / "run")
    assert result["epochs"] == 2
    reason = "Monitored metric val/loss did not improve in the last 1 records"
    assert result["ended_early"].startswith(reason)
    output = " ".join(capsys.readouterr().out.split())  # however it was folded
    assert "lenet: 2 of 3 epochs in " in output
    assert f" ended early {reason}" in output
    warnings = build_leaderboard([read_run(tmp_path / "run")]).warnings
    assert f"Ended before the last epoch: {result['ended_early']} (1 run)." in warnings


def test_a_run_to_its_last_epoch_did_not_end_early(small, tmp_path):
    assert train(small(), tmp_path / "run")["ended_early"] is None


def test_a_run_that_stopped_and_was_cut_off_trains_no_epoch_more(small, tmp_path):
    config = with_callback(small("checkpoint.keep=true"), STOP)
    first = train(config, tmp_path / "run")
    weights = (tmp_path / "run" / "weights.safetensors").read_bytes()
    (tmp_path / "run" / "result.json").unlink()
    again = train(config, tmp_path / "run")
    assert (again["epochs"], again["metrics"], again["ended_early"]) == (2, first["metrics"], first["ended_early"])
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == weights


def test_a_run_without_the_callback_has_another_configuration(small, tmp_path):
    train(small("trainer.max_epochs=3"), tmp_path / "run")
    message = r"of another configuration:\n  callbacks\.mine\._target_: None there, lightning"
    with pytest.raises(RuntimeError, match=message):
        train(with_callback(small(), STOP), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["epochs"] == 3
