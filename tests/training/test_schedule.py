"""The learning rate is that of a plain loop, whatever the scheduler."""

import csv
import math

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from support.schedules import SCHEDULES, TORCH, description
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import register_optimizer_step_pre_hook

from convnets.configuration import targets
from convnets.configuration.rules import ConfigurationError
from convnets.configuration.targets import check_targets
from convnets.runs.run import Run
from convnets.training.extend import extend
from convnets.training.train import train

EPOCHS, BATCHES = 5, 5
ACCUMULATION = {
    "callbacks": {
        "more": {
            "_target_": "lightning.pytorch.callbacks.GradientAccumulationScheduler",
            "scheduling": {0: 1, 2: 2, 4: 4},
        }
    }
}


def scheduled(config, options):
    """As if a file of conf/schedule held the options."""
    config = config.copy()
    config.schedule = options
    return config


def trained(config, path):
    """The learning rate of each optimizer step, and the rows of metrics.csv."""
    rates = []
    noting = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        train(config, path)
    finally:
        noting.remove()
    with (path / "metrics.csv").open() as file:
        return rates, list(csv.DictReader(file))


def plain_loop(build, by_step, steps_of_epochs, rows, monitor):
    """The learning rates of torch's own loop."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.5)
    scheduler = build(optimizer, sum(steps_of_epochs) if by_step else len(steps_of_epochs))
    rates = []
    for num_steps, row in zip(steps_of_epochs, rows, strict=True):
        for _ in range(num_steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if by_step:
                scheduler.step()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(float(row[monitor]))
        elif not by_step:
            scheduler.step()
    return rates


WAYS = {
    "plainly": ((), {}, [BATCHES] * EPOCHS),
    "accumulated": (("trainer.accumulate_grad_batches=2",), {}, [3] * EPOCHS),
    "several at once": (("steps_per_execution=5", "trainer.limit_train_batches=5"), {}, [BATCHES] * EPOCHS),
    "not a multiple at once": (
        ("steps_per_execution=3", "trainer.limit_train_batches=null", "data.batch_size=240"),
        {},
        [5] * EPOCHS,
    ),
    "accumulated more and more": ((), ACCUMULATION, [5, 5, 3, 3, 2]),
}


BY_THE_STEP = ("StepLR by the step", "OneCycleLR", "SequentialLR by the step")  # the others do not see the way
PAIRS = [
    *((name, "plainly") for name in SCHEDULES),
    *((name, way) for name in (*BY_THE_STEP, "StepLR", "ReduceLROnPlateau") for way in WAYS if way != "plainly"),
]


@pytest.mark.parametrize(("name", "way"), PAIRS)
def test_the_rates_are_those_of_a_plain_loop(small, tmp_path, name, way):
    options, by_step, build = SCHEDULES[name]
    overrides, added, steps_of_epochs = WAYS[way]
    limits = (f"trainer.max_epochs={EPOCHS}", f"trainer.limit_train_batches={BATCHES}", "trainer.limit_val_batches=1")
    config = scheduled(
        small(*limits, "optimizer=momentum", "optimizer.momentum=0.5", "model.lr=0.1", *overrides), options
    )
    rates, rows = trained(OmegaConf.merge(config, added), tmp_path)
    assert rates == plain_loop(build, by_step, steps_of_epochs, rows, options.get("monitor", "val/loss"))
    assert len(set(rates)) > 1
    last_steps = [rates[sum(steps_of_epochs[: epoch + 1]) - 1] for epoch in range(EPOCHS)]
    assert [float(row["learning_rate"]) for row in rows] == last_steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (description("StepLR"), r"schedule \(torch.*StepLR\): TypeError: .*'step_size'.* Compare its file"),
        (description("StepLR", step_size=1, gama=2), r"unexpected keyword argument 'gama'"),
        (description("StepLR", step_size=0), r"schedule \(.*StepLR\): ZeroDivisionError"),
        (
            description("StepLR", step_size=1, interval="batch"),
            r"schedule\.interval must be step or epoch, got 'batch'",
        ),
        (description("StepLR", step_size=1, monitor="val/loss"), r"schedule\.monitor is for ReduceLROnPlateau; StepLR"),
        (description("OneCycleLR", max_lr=0.1, total_steps=4), r"OneCycleLR\): Tried to step 5 times"),
        (description("OneCycleLR", max_lr=0.1), r"You must define either total_steps"),
        (description("CyclicLR", base_lr=0.1, max_lr=1.0, mode="square"), r"mode is invalid"),
        (
            description("CosineAnnealingLR", steps_argument="T_max", T_max=10),
            r"schedule\.T_max takes the number of steps, as schedule\.steps_argument says: remove one",
        ),
        (description("ReduceLROnPlateau", monitor="val/los"), r"schedule\.monitor must be one of .*, got 'val/los'"),
        (
            description("ReduceLROnPlateau", monitor="val/accuracy"),
            r"schedule\.monitor=val/accuracy is best at its maximum, and schedule\.mode is min: write mode: max",
        ),
        (description("ReduceLROnPlateau", interval="step"), r"metric comes once an epoch: set interval: epoch"),
        (description("ReduceLROnPlateau", factor=2.0), r"ReduceLROnPlateau\): Factor should be < 1\.0"),
        (
            description("LambdaLR", lr_lambda="lambda epoch: 1"),
            r"LambdaLR\): TypeError: 'str' object is not callable",
        ),
        (description("ChainedScheduler", schedulers="StepLR"), r"schedule\.schedulers must be a list of schedulers"),
        (description("ChainedScheduler", schedulers=[{"gamma": 1}]), r"schedule\.schedulers\[0\] has no _target_"),
        (
            description("ChainedScheduler", schedulers=[description("ReduceLROnPlateau")]),
            r"ChainedScheduler does not support `ReduceLROnPlateau`",
        ),
        (
            description("ChainedScheduler", schedulers=[description("ExponentialLR", gamma=0.9, interval="step")]),
            r"schedule\.schedulers\[0\]\.interval cannot be set: .* which is schedule\.interval",
        ),
        (
            description("SequentialLR", milestones=[1], schedulers=SCHEDULES["SequentialLR"][0]["schedulers"]),
            r"add interval: step or interval: epoch to the schedule's file",
        ),
        (
            {**SCHEDULES["SequentialLR"][0], "milestones": [2, 1]},
            r"schedule\.milestones must be 1 rising whole numbers above 0, .* got \[2, 1\]",
        ),
        (
            {**SCHEDULES["SequentialLR"][0], "milestones": [20]},
            r"schedule\.schedulers\[1\] has no steps for its T_max: .* Lower the milestone, or train for more epochs",
        ),
        (
            description(
                "SequentialLR",
                milestones=[1],
                schedulers=[description("ConstantLR"), SCHEDULES["SequentialLR"][0]],
            ),
            r"schedule\.schedulers\[1\]\.interval cannot be set",
        ),
        (
            description(
                "SequentialLR",
                milestones=[1],
                schedulers=[
                    description("ConstantLR"),
                    description("ChainedScheduler", schedulers=[description("ExponentialLR", gamma=0.9)]),
                ],
            ),
            r"torch does not take a ChainedScheduler or SequentialLR after a milestone: put its schedulers into the",
        ),
        ({"_target_": "torch.optim.SGD", "lr": 0.1}, r"schedule \(torch\.optim\.sgd\.SGD\): TypeError"),
        ({"_target_": "builtins.list"}, r"schedule"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_the_folder_is_occupied(small, tmp_path, options, message):
    with pytest.raises(ConfigurationError, match=message):
        train(scheduled(small(), options), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_training_that_was_refused_occupies_no_folder(small, tmp_path):
    with pytest.raises(ConfigurationError, match="ZeroDivisionError"):
        train(scheduled(small(), description("StepLR", step_size=0)), tmp_path / "run")
    assert train(small(), tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "overrides", "warned"),
    [
        (description("ReduceLROnPlateau"), (), True),
        (description("ReduceLROnPlateau"), ("data.holdout=100",), False),
        (description("ReduceLROnPlateau", monitor="train/loss"), (), False),
        (description("StepLR", step_size=1), (), False),
    ],
)
def test_a_schedule_that_follows_the_test_split_says_so(small, tmp_path, caplog, options, overrides, warned):
    train(scheduled(small(*overrides), options), tmp_path)
    assert ("follows val/loss, which with data.holdout=0 is that of the test split" in caplog.text) == warned


def test_a_function_can_be_given_by_its_name_in_a_module(small, tmp_path):
    options = description("LambdaLR", lr_lambda={"_target_": "math.ldexp", "_partial_": True, "_args_": [1.0]})
    rates, _ = trained(scheduled(small(), options), tmp_path)
    assert rates == [0.1] * 3 + [0.2] * 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("steps_per_execution=3",), r"steps_per_execution=3 does not go with .*: set steps_per_execution=1, or leave"),
        (("trainer.accumulate_grad_batches=2",), r"trainer\.accumulate_grad_batches=2 does not go with"),
        (("compile=reduce-overhead",), r"compile=reduce-overhead does not go with .*: set compile=true"),
    ],
)
def test_an_accumulation_that_changes_is_refused_with_settings_that_exclude_it(small, tmp_path, overrides, message):
    with pytest.raises(ConfigurationError, match=message):
        train(OmegaConf.merge(small(*overrides), ACCUMULATION), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_only_a_schedule_that_does_not_plan_its_steps_can_be_extended(small, tmp_path, monkeypatch):
    added = {TORCH + name for name in ("SequentialLR", "LinearLR", "ChainedScheduler", "ExponentialLR", "ConstantLR")}
    added |= {TORCH + name for name in ("PolynomialLR", "StepLR", "ReduceLROnPlateau")}
    shipped = targets.shipped_targets() | added
    monkeypatch.setattr(targets, "shipped_targets", lambda: shipped)
    for name in ("SequentialLR by the step", "ChainedScheduler"):
        train(scheduled(small("trainer.limit_train_batches=5"), SCHEDULES[name][0]), tmp_path / name)
        with pytest.raises(ConfigurationError, match=r"planned for 2 epochs"):
            extend(Run(tmp_path / name), ["trainer.max_epochs=4"])
    for name in ("StepLR", "ReduceLROnPlateau"):
        short, long = (
            scheduled(small(f"trainer.max_epochs={epochs}", "checkpoint.keep=true"), SCHEDULES[name][0])
            for epochs in (2, 4)
        )
        train(short, tmp_path / name)
        rates, rows = trained(extend(Run(tmp_path / name), ["trainer.max_epochs=4"]), tmp_path / name)
        expected, expected_rows = trained(long, tmp_path / f"{name} in one go")
        assert rates == expected[6:]
        assert [row["val/loss"] for row in rows] == [row["val/loss"] for row in expected_rows]


def test_a_run_may_call_classes_in_a_list_of_a_file_in_conf(tmp_path, monkeypatch):
    (tmp_path / "schedule").mkdir()
    options = SCHEDULES["ChainedScheduler"][0]
    (tmp_path / "schedule" / "mine.yaml").write_text(yaml.safe_dump(options))
    monkeypatch.setattr(targets, "CONFIG_DIR", tmp_path)
    targets.shipped_targets.cache_clear()
    try:
        check_targets({"schedule": options}, (), "run")
        with pytest.raises(ConfigurationError, match="StepLR"):
            check_targets({"schedule": description("StepLR")}, (), "run")
    finally:
        targets.shipped_targets.cache_clear()


def test_a_users_file_is_a_choice_like_any_other(run_script, tmp_path):
    (tmp_path / "conf" / "schedule").mkdir(parents=True)
    (tmp_path / "conf" / "schedule" / "step.yaml").write_text(
        "_target_: torch.optim.lr_scheduler.StepLR\nstep_size: 1\ngamma: 0.5\n"
    )
    quick = ("data=fashion_mnist_sample", "trainer=smoke", "callbacks=none", "logger=none", "run_name=mine")
    finished = run_script("train.py", "schedule=step", f"hydra.searchpath=[file://{tmp_path / 'conf'}]", *quick)
    assert finished.returncode == 0, finished.stderr
    with (tmp_path / "outputs" / "runs" / "mine" / "metrics.csv").open() as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert math.isclose(rates[0], 0.1)
    assert math.isclose(rates[1], 0.05)
