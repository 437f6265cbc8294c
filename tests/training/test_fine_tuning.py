"""Frozen and slower backbones, and the groups of parameters that the latter makes."""

import functools

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from convnets.callbacks import read_checkpoint
from convnets.classifier import Classifier
from convnets.configuration.rules import ConfigurationError
from convnets.results.trained_run import load_run
from convnets.training.building import build_classifier, build_datamodule
from convnets.training.checks import check_parts
from convnets.training.schedule import Schedule
from convnets.training.train import train

BATCH = (torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)
SGD = functools.partial(torch.optim.SGD, lr=0.1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3))


def fit(classifier, epochs=2):
    loader = torch.utils.data.DataLoader([BATCH], batch_size=None)
    lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    ).fit(classifier, loader, loader)  # fmt: skip
    return classifier


@pytest.mark.filterwarnings("ignore:.*in eval mode at the start")  # as `train` does
def test_of_a_frozen_backbone_nothing_changes_and_only_batch_norm_is_not_in_training():
    before = {name: value.clone() for name, value in network().state_dict().items()}
    classifier = fit(Classifier(network(), SGD, freeze_backbone=True))
    changed = {name for name, value in classifier.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"4.weight", "4.bias"}
    assert [layer.training for layer in classifier.train().network] == [True, False, True, True, True]
    (group,) = classifier.build_optimizer().param_groups
    assert group["param_names"] == ["network.4.weight", "network.4.bias"]


def test_a_slower_backbone_takes_the_steps_of_groups_made_by_hand():
    ours, expected = Classifier(network(), SGD, backbone_lr=0.01), network()
    head = [*expected[4].parameters()]
    rest = [parameter for layer in expected[:4] for parameter in layer.parameters()]
    optimizer = torch.optim.SGD([{"params": head}, {"params": rest, "lr": 0.01}], lr=0.1)
    for trained in (ours.network, expected):
        trained[2].p = 0.0
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(expected(BATCH[0]), BATCH[1]).backward()
        optimizer.step()
    for ours_, theirs in zip(fit(ours).network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours_, theirs)


SCHEDULES = [
    {"_target_": "CosineAnnealingLR", "T_max": 8},
    {"_target_": "OneCycleLR", "max_lr": 0.1, "total_steps": 8, "cycle_momentum": False},
    {"_target_": "CyclicLR", "base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "cycle_momentum": False},
    {"_target_": "SequentialLR", "milestones": [2], "schedulers": [
        {"_target_": "torch.optim.lr_scheduler.LinearLR", "start_factor": 0.1, "total_iters": 2},
        {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.1, "total_steps": 8, "cycle_momentum": False},
    ]},
]  # fmt: skip


@pytest.mark.parametrize("options", SCHEDULES, ids=lambda options: options["_target_"])
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning", "ignore:The epoch parameter:UserWarning")
def test_every_schedule_keeps_the_backbones_share_of_the_heads_rate(options):
    schedule = Schedule({**options, "_target_": f"torch.optim.lr_scheduler.{options['_target_']}"}, lambda: 8)
    optimizer = Classifier(network(), SGD, backbone_lr=0.001).build_optimizer()
    alone = Classifier(network(), SGD).build_optimizer()
    schedulers = [schedule.build(each, 8) for each in (optimizer, alone)]
    for _ in range(6):
        head, backbone = (group["lr"] for group in optimizer.param_groups)
        assert head == pytest.approx(alone.param_groups[0]["lr"])
        assert backbone == pytest.approx(head / 100)
        for scheduler in schedulers:
            scheduler.step()


class Stop(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("names", [True, False], ids=["as they are", "of a checkpoint without names"])
def test_a_training_with_groups_resumes_to_the_same_bits(small, tmp_path, names):
    config = small("optimizer=momentum", "schedule=onecycle", "model.backbone_lr=0.01", "loss=focal")
    train(config, tmp_path / "whole")
    with pytest.raises(SystemExit):
        train(config, tmp_path / "cut", [Stop()])
    if not names:
        path = tmp_path / "cut" / "checkpoints" / "last.ckpt"
        checkpoint = read_checkpoint(path)
        for group in checkpoint["optimizer_states"][0]["param_groups"]:
            del group["param_names"]
        torch.save(checkpoint, path)
    train(config, tmp_path / "cut")
    whole, cut = (load_run(tmp_path / name) for name in ("whole", "cut"))
    assert (whole.path / "weights.safetensors").read_bytes() == (cut.path / "weights.safetensors").read_bytes()
    assert [row["train/loss"] for row in whole.history] == [row["train/loss"] for row in cut.history]
    assert 0 < whole.history[-1]["learning_rate"] < 0.1  # of the head


def test_batch_norm_that_stays_as_it_is_makes_no_warning(small, tmp_path):
    words = ["model=resnet18", "data.resize=16", "data.batch_size=8", "model.freeze=backbone"]
    few = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1"]
    train(small(*words, *few), tmp_path / "run")
    assert load_run(tmp_path / "run").classifier.network[0][1].num_batches_tracked == 0


def test_a_run_from_anothers_weights_keeps_its_backbone_and_reports_cross_entropy(small, tmp_path):
    train(small("trainer.max_epochs=1"), tmp_path / "first")
    first = load_run(tmp_path / "first").classifier.network.state_dict()
    words = [f"init.from_run={tmp_path / 'first'}", "model.freeze=backbone", "trainer.max_epochs=1"]
    config = small(*words, "loss=focal", "loss.gamma=5", "trainer.limit_val_batches=1")
    result = train(config, tmp_path / "second")
    second = load_run(tmp_path / "second").classifier
    changed = {name for name, value in second.network.state_dict().items() if not torch.equal(value, first[name])}
    assert changed == {"11.weight", "11.bias"}
    assert "lenet (61,706 parameters, of which 850 learn) on" in (tmp_path / "second" / "train.log").read_text()
    assert result["metrics"]["train/loss"] < 0.8 * result["metrics"]["val/loss"]  # focal, and cross-entropy
    assert result["metrics"]["val/loss"] == pytest.approx(2.3, abs=0.3)


def checked(config):
    datamodule = build_datamodule(config)
    check_parts(config, build_classifier(config, datamodule), datamodule.num_classes)


def test_a_frozen_backbone_without_weights_to_start_from_is_said(small, caplog):
    checked(small("model.freeze=backbone"))
    assert "The backbone is frozen as it was drawn at random: start from weights" in caplog.text
    with pytest.raises(ConfigurationError, match=r"model.backbone_lr=0.1 would change: set one of the two"):
        checked(small("model.freeze=backbone", "model.backbone_lr=0.1"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer.nesterov=true"], r"optimizer \(torch.optim.SGD\): Nesterov momentum requires a momentum"),
        (["optimizer=adamw", "optimizer.betas=[0.9,2]"], r"optimizer \(torch.optim.AdamW\): Invalid beta parameter"),
        (["optimizer=adamw", "optimizer.betas=[0.9]"], r"optimizer \(torch.optim.AdamW\): list index out of range"),
        (["optimizer.foreach=true", "optimizer.fused=true"], r"optimizer \(torch.optim.SGD\): `fused` and `foreach`"),
    ],
)
def test_what_only_the_class_refuses_is_said_before_images_are_read(small, tmp_path, words, said):
    with pytest.raises(ConfigurationError, match=said):
        train(small(*words), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_loss_that_is_no_single_number_is_refused(small):
    config = small()
    datamodule = build_datamodule(config)
    classifier = build_classifier(config, datamodule)
    classifier.loss = nn.CrossEntropyLoss(reduction="none")
    with pytest.raises(ConfigurationError, match=r"loss \(torch.nn.CrossEntropyLoss\) must return the mean loss"):
        check_parts(config, classifier, datamodule.num_classes)
