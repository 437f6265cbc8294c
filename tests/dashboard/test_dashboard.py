import csv
import logging
import math
import re

import lightning
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from support.breaking import EACH_STEP, KEPT, PulledPlugError, everything, interrupt, pull_the_plug, train_through
from support.events import all_points, read
from support.repository import CONF
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from torch import nn

from convnets import plots
from convnets.callbacks import Checkpoints
from convnets.classifier import Classifier
from convnets.dashboard import Dashboard
from convnets.dashboard.hyperparameters import FIRST_COLUMNS
from convnets.dashboard.pictures import figures
from convnets.dashboard.probe import look, probe_numbers
from convnets.data import FashionMNISTSampleDataModule
from convnets.results.trained_run import TrainedRun as Run
from convnets.training.train import train

NAMES = FashionMNISTSampleDataModule.class_names
SMALL_VGG = ("model=vgg", "model.blocks=[[1,4],[1,8]]", "model.hidden=[32,32]", "data.resize=16")


@pytest.fixture(scope="session")
def shown(small, tmp_path_factory):
    """A quick run that is watched by everything."""
    peaks = tmp_path_factory.mktemp("peaks") / "peaks.json"

    def shown(*overrides):
        quiet = ("callbacks=default", "callbacks.progress=null", "callbacks.time_estimate=null")
        return small(*quiet, "logger=tensorboard", f"callbacks.throughput.peaks_path={peaks}", *overrides)

    return shown


@pytest.fixture(scope="session")
def run(shown, tmp_path_factory):
    """One that has ended, of three epochs: all of them are pictured."""
    path = tmp_path_factory.mktemp("run")
    train(shown("trainer.max_epochs=3"), path)
    return Run(path)


@pytest.fixture
def no_complaints(caplog):
    yield
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


# What is there


def test_which_epochs_are_pictured():
    assert [epoch for epoch in range(1, 11) if Dashboard().is_pictured(epoch, 10)] == [1, 2, 4, 8, 10]
    assert [epoch for epoch in range(1, 11) if Dashboard(every=4).is_pictured(epoch, 10)] == [1, 4, 8, 10]


def test_each_kind_of_point_is_there_once_an_epoch(run):
    events = read(run.path)
    tags = events.Tags()
    pictures = ("probe", "mistakes", "confusion", "filters", "feature_maps", "saturated_sigmoids")
    assert sorted(tags["images"]) == sorted(f"pictures/{name}" for name in pictures)
    for tag in tags["images"]:
        assert [image.step for image in events.Images(tag)] == [1, 2, 3]
    sigmoids, weights = ("1", "4", "8", "10"), ("0_Conv2d", "3_Conv2d", "7_Linear", "9_Linear", "11_Linear")
    expected = [f"activations/{number}_Sigmoid" for number in sigmoids] + ["activations/scores"]
    assert sorted(tags["histograms"]) == sorted(expected + [f"gradients/{name}" for name in weights])
    for tag in tags["histograms"]:
        assert [point.step for point in events.Histograms(tag)] == [1, 2, 3]
    assert events.Histograms("activations/scores")[0].histogram_value.num == 100 * 10
    assert events.Histograms("gradients/0_Conv2d")[0].histogram_value.num == 6 * 25
    for number in sigmoids:
        assert [point.step for point in events.Scalars(f"saturated_sigmoids/{number}_Sigmoid")] == [1, 2, 3]
    assert "hp_metric" not in tags["scalars"]
    size = sum(path.stat().st_size for path in run.path.glob("events.out.tfevents.*"))
    assert size / 3 * 5 < 15e6  # ten epochs have five pictures


def test_pictures_can_be_read_at_the_350_pixels_that_tensorboard_gives_them_and_are_light(run):
    events = read(run.path)
    for tag in events.Tags()["images"]:
        image = events.Images(tag)[-1]
        assert 500 <= image.width <= 760  # words of 15 pixels keep 7
        (run.path / "picture.png").write_bytes(image.encoded_image_string)
        with Image.open(run.path / "picture.png") as picture:
            assert picture.getpixel((0, 0)) == (255, 255, 255)


def test_one_chart_has_both_losses_and_one_both_accuracies(run):
    events = read(run.path)
    (point,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(point.tensor_proto.string_val[0])
    (category,) = layout.category
    scalars = events.Tags()["scalars"]
    drawn = {
        chart.title: [tag for tag in scalars for pattern in chart.multiline.tag if re.search(pattern, tag)]
        for chart in category.chart
    }
    assert drawn == {
        "loss (nats)": ["train/loss", "val/loss"],
        "accuracy": ["train/accuracy", "val/accuracy"],
    }


def test_the_summary_holds_hyperparameters_with_the_final_metrics(run):
    events = read(run.path)
    found = {}
    for tag in ("experiment", "session_start_info", "session_end_info"):
        content = events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
        found[tag] = plugin_data_pb2.HParamsPluginData.FromString(content)
    columns = found["experiment"].experiment
    metrics = [info.name.tag for info in columns.metric_infos]
    final = [tag for tag in events.Tags()["scalars"] if tag.startswith("final/")]
    assert {*metrics} == {*final, "final/test_loss", "final/test_accuracy"}  # which runs with a holdout have
    assert {tag: events.Scalars(tag)[-1].value for tag in final} == pytest.approx(
        {
            **{f"final/{name.replace('/', '_')}": value for name, value in run.metrics.items()},
            "final/train_seconds": run.result["train_seconds"],
        }
    )
    values = found["session_start_info"].session_start_info.hparams
    assert values["model"].string_value == "lenet"
    assert values["model.lr"].number_value == 0.1
    names = {info.name for info in columns.hparam_infos}
    assert set(values) < names
    assert {info.name for info in columns.hparam_infos if info.differs} == {*FIRST_COLUMNS}
    assert "trainer.gradient_clip_val" in names  # null here, but a column for runs where it is not
    assert [name for name in names if "callbacks" in name or "logger" in name] == ["callbacks"]
    assert "callbacks" not in values  # which only watch


def test_the_summary_holds_configuration_versions_command_and_layers(run):
    events = read(run.path)
    texts = {
        tag.split("/")[1]: events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
        for tag in events.Tags()["tensors"]
        if tag.startswith("run/")
    }
    assert yaml.safe_load(texts["configuration"].removeprefix("```yaml").removesuffix("```")) == dict(run.config)
    assert f"| torch | {run.result['versions']['torch']} |" in texts["versions"]
    assert texts["command"].startswith("```\npython ")
    assert re.search(r"^total +61,706 +416,520 ", texts["layers"], re.MULTILINE)


def test_the_summary_holds_the_graph_and_the_classes_curves(run):
    events = read(run.path)
    operations = [node.op for node in events.Graph().node]
    assert sum("_convolution" in operation for operation in operations) == 2
    curves = [tag for tag in events.Tags()["tensors"] if tag.startswith("precision_recall/")]
    assert curves[0] == "precision_recall/0_T-shirt_top"
    assert len(curves) == 10
    for tag in curves:
        (point,) = events.Tensors(tag)
        precision, recall = np.array(point.tensor_proto.float_val).reshape(6, -1)[4:]
        assert (precision[0], recall[0]) == (pytest.approx(0.1), 1)  # a threshold of 0 takes all for the class


def test_the_projector_shows_test_images_in_the_last_layers_space(run):
    folder = run.path / "00004" / "test_images"
    lines = (folder / "tensors.tsv").read_text().splitlines()
    units = torch.tensor([[float(number) for number in line.split()] for line in lines])
    dataset = run.datamodule.splits["test"]
    expected = run.datamodule.to_network_input(dataset.stored)
    with torch.no_grad():
        for layer in [*run.classifier.network][:-1]:
            expected = layer(expected)
    expected -= expected.mean(dim=0)
    torch.testing.assert_close(units, expected / expected.std(correction=0), atol=1e-3, rtol=0)
    with (folder / "metadata.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["class"] for row in rows] == [NAMES[label] for label in dataset.labels]
    num_right = sum(row["right or wrong"] == "right" for row in rows)
    assert num_right / len(rows) == pytest.approx(run.metrics["val/accuracy"])  # the test split validated
    with Image.open(folder / "sprite.png") as sprite:
        assert sprite.size == (15 * 28, 15 * 28)  # of 200
        third = np.asarray(sprite)[:28, 2 * 28 : 3 * 28, 0].astype(int)
    assert abs(third - dataset.stored[2, 0].numpy()).max() <= 1


def test_a_network_that_cannot_be_traced_has_its_layers_as_text(shown, tmp_path, monkeypatch, caplog, capsys):
    def refuse(*_, **__):
        raise RuntimeError("no tracing\nof this")

    monkeypatch.setattr(torch.jit, "trace", refuse)
    caplog.set_level(logging.INFO)
    train(shown("trainer.max_epochs=1", "callbacks.dashboard.images=false"), tmp_path)
    assert "TensorBoard shows no graph, for the network cannot be traced: no tracing" in caplog.messages
    assert "Error occurs" not in capsys.readouterr().out
    events = read(tmp_path)
    assert not events.Tags()["graph"]
    assert b"total" in events.Tensors("run/layers/text_summary")[0].tensor_proto.string_val[0]


# What the pictures say


def shots_of(config, path, monkeypatch):
    """What would have been drawn."""
    shots = []
    monkeypatch.setattr("convnets.dashboard.dashboard.draw", lambda writer, shot: shots.append(shot))
    train(config, path)
    return shots


def test_pictures_show_what_was_validated(shown, tmp_path, monkeypatch):
    """By the metrics that were counted, and by another run through the final weights."""
    options = ("model.lr=0.01", "optimizer=adamw", "trainer.limit_train_batches=null", "data.holdout=300")
    shots = shots_of(shown(*options, "data.batch_size=90"), tmp_path, monkeypatch)
    run = Run(tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    held_out = run.datamodule.splits["val"]
    images, _ = held_out[torch.arange(300)]
    for shot, row in zip(shots, rows, strict=True):
        assert shot.confusion.sum(1).tolist() == held_out.labels.bincount(minlength=10).tolist()
        assert np.trace(shot.confusion) / 300 == pytest.approx(float(row["val/accuracy"]))
        assert (shot.mistakes.scores.argmax(1) != shot.mistakes.labels).all()
        assert len(shot.probed.labels) == 90
    assert np.array_equal(shots[0].probed.images, shots[1].probed.images)
    labels = {image.numpy().tobytes(): label for image, label in zip(images, held_out.labels, strict=True)}
    for some in (shots[0].probed, shots[0].mistakes):
        assert [labels[image.tobytes()] for image in some.images] == some.labels.tolist()
    best = shots[run.result["weights_of_epoch"] - 1]
    with torch.no_grad():
        scores = run.classifier(run.datamodule.to_network_input(torch.tensor(best.probed.images).permute(0, 3, 1, 2)))
    np.testing.assert_allclose(best.probed.scores, scores, atol=1e-4)
    np.testing.assert_array_equal(best.kernels, run.classifier.network[0].weight[:, 0].detach())

    drawn = figures(best)
    accuracy = f"{float(rows[best.epoch - 1]['val/accuracy']):.1%} of 300 validation images right"
    assert drawn["confusion"].get_suptitle().startswith(accuracy)
    told = [text.get_text() for text in drawn["mistakes"].axes[0].texts]
    with torch.no_grad():
        shares = run.classifier(run.datamodule.to_network_input(images)).softmax(1)
    wrong = [
        (share.max().item(), f"{NAMES[share.argmax()]} {share.max():.0%}\nis {NAMES[label]}")
        for share, label in zip(shares, held_out.labels, strict=True)
        if share.argmax() != label
    ]
    assert told[0] == max(wrong)[1]
    assert len(told) == min(20, len(wrong))
    assert f"of {len(wrong)} mistakes" in drawn["mistakes"].get_suptitle().replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "last_maps"),
    [
        (SMALL_VGG, ("7 ReLU", (32,))),
        (("model=resnet18", "data.resize=32"), ("4 block, 16 of 512", (16, 1, 1))),
        (("model=resnext18", "data.resize=40"), ("4 block, 16 of 512", (16, 2, 2))),
    ],
)
def test_every_network_is_pictured(shown, tmp_path, monkeypatch, options, last_maps, no_complaints):
    few = ("data.batch_size=20", "trainer.limit_val_batches=2", "trainer.max_epochs=1", "trainer.limit_train_batches=1")
    (shot,) = shots_of(shown(*options, *few, "trainer.precision=bf16-mixed"), tmp_path, monkeypatch)
    name, maps = shot.seen.maps[-2]
    assert (name, maps.shape) == last_maps
    assert shot.seen.maps[-1][0] == "scores"
    assert set(figures(shot)) == {"probe", "mistakes", "confusion", "filters", "feature_maps", "dead_relus"}
    assert shot.confusion.sum() == 40


def test_probe_images_are_the_first_of_each_class_in_turn():
    labels = torch.tensor([3, 3, 0, 1, 0, 2, 1, 3, 0])
    assert probe_numbers(labels, 100).tolist() == [2, 3, 5, 0, 4, 6, 1, 8, 7]
    assert probe_numbers(labels, 5).tolist() == [2, 3, 5, 0, 4]


def looked_at(network, images):
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    return look(trainer, Classifier(network, channels_last=False), images)


def test_saturated_sigmoids_and_dead_relus_are_counted():
    """With layers that give out known numbers whatever they are given."""

    def giving(*numbers):
        layer = nn.Linear(4, len(numbers))
        nn.init.zeros_(layer.weight)
        layer.bias.data = torch.tensor(numbers)
        return layer

    seen = looked_at(
        nn.Sequential(
            nn.Flatten(),
            giving(0.0, 2.9, 3.0, -2.9, -3.0),  # sigmoid(2.944) is 0.95
            nn.Sigmoid(),
            nn.Sequential(nn.Linear(5, 4), nn.Flatten(), giving(-1.0, 0.0, 1.0, 2.0), nn.ReLU()),
            nn.Linear(4, 10),
        ),
        torch.rand(7, 1, 2, 2),
    )
    assert seen.saturated == {"2_Sigmoid": pytest.approx(2 / 5)}
    assert seen.dead == {"3.3_ReLU": 0.5}
    assert [(name, values.shape) for name, values in seen.maps] == [
        ("image", (1, 2, 2)), ("1 Linear", (5,)), ("2 Sigmoid", (5,)), ("3 block", (4,)), ("scores", (10,)),
    ]  # fmt: skip


def test_a_channel_that_lives_anywhere_in_any_image_is_not_dead():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 10))
    nn.init.constant_(network[0].weight, 1.0)
    network[0].bias.data = torch.tensor([-1.0, -2.0])
    images = torch.zeros(5, 1, 3, 3)
    images[3, 0, 1, 2] = 1.5
    assert looked_at(network, images).dead == {"1_ReLU": 0.5}


def test_looking_leaves_modes_hooks_and_random_numbers_as_they_were():
    network = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.BatchNorm1d(4).eval(), nn.Linear(4, 10))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    looked_at(network, torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in network] == [True, True, False, True]
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


# What must not change


class Recorder(lightning.Callback):
    """Keeps the state of the random numbers, and looks for traces, where an epoch begins and at the end."""

    def __init__(self):
        self.states = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.states.append(torch.get_rng_state())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in pl_module.network.modules())
        assert all(module.training for module in pl_module.network.modules())

    on_train_end = on_train_epoch_start


@pytest.mark.parametrize(
    "options",
    [
        ("data.augment=shift_flip", "data.holdout=100", "trainer.accumulate_grad_batches=2"),
        (*SMALL_VGG, "optimizer=momentum", "trainer.gradient_clip_val=0.1"),
        pytest.param(("model=resnet18", "data.resize=32", "data.batch_size=100"), marks=pytest.mark.slow),
    ],
)
def test_a_training_gives_the_same_bits_with_and_without_the_dashboard(shown, small, tmp_path, options, no_complaints):
    recorders = Recorder(), Recorder()
    train(shown(KEPT, *options), tmp_path / "watched", [recorders[0]])
    train(small("logger=tensorboard", KEPT, *options), tmp_path / "alone", [recorders[1]])
    watched, alone = everything(tmp_path / "watched"), everything(tmp_path / "alone")
    for what in ("weights", "optimizer", "counters", "rows", "result"):
        assert watched[what] == alone[what]
    assert len(recorders[0].states) == 3
    assert all(map(torch.equal, recorders[0].states, recorders[1].states))


def test_an_interrupted_run_shows_the_same_points_each_once(shown, tmp_path, no_complaints):
    """Scalars, histograms, pictures to the last byte, texts, curves, layout; cut off inside epochs and at their end."""
    config = shown(KEPT, EACH_STEP, "trainer.max_epochs=4", "data.holdout=100")
    train(config, tmp_path / "whole")
    train_through(config, tmp_path / "broken", {2: pull_the_plug, 3: interrupt, 5: pull_the_plug, 8: interrupt})
    whole, broken = all_points(tmp_path / "whole"), all_points(tmp_path / "broken")
    assert set(broken) == set(whole)
    for tag in whole:
        assert broken[tag] == whole[tag], tag
    assert {step for step, _ in whole["pictures/probe"]} == {1, 2, 4}
    assert everything(tmp_path / "broken") | {"points": 0} == everything(tmp_path / "whole") | {"points": 0}
    for name in ("curves.png", "curves.svg"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class PulledBeforeTheCheckpoint(lightning.Callback):
    """Ends the second epoch as SIGKILL would: with its points written, but not its checkpoint."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            next(c for c in trainer.callbacks if isinstance(c, Checkpoints)).on_train_epoch_end = self.pull

    def pull(self, trainer, pl_module):
        pull_the_plug()


def test_points_without_a_checkpoint_are_dropped_by_tensorboard(shown, tmp_path):
    config = shown(KEPT, "trainer.max_epochs=3")
    train(config, tmp_path / "whole")
    with pytest.raises(PulledPlugError):
        train(config, tmp_path / "broken", [PulledBeforeTheCheckpoint()])
    assert {step for step, _ in all_points(tmp_path / "broken")["pictures/probe"]} == {1, 2}
    train(config, tmp_path / "broken")
    assert all_points(tmp_path / "broken") == all_points(tmp_path / "whole")


def test_a_summary_that_was_cut_off_is_written_once(shown, tmp_path):
    config = shown(KEPT, "trainer.max_epochs=1")
    train(config, tmp_path)
    expected = all_points(tmp_path)
    (tmp_path / "result.json").unlink()
    train(config, tmp_path)
    points = all_points(tmp_path)
    for tag in ("__run_graph__", "step1"):  # have no step; TensorBoard shows the newest
        assert points[tag] == 2 * expected[tag]
        points[tag] = expected[tag]
    assert points == expected


# What can be switched off


@pytest.mark.parametrize(
    ("off", "gone", "there"),
    [
        ("callbacks.dashboard.images=false", "pictures/", "activations/"),
        ("callbacks.dashboard.histograms=false", "activations/", "pictures/"),
        ("callbacks.dashboard.summary=false", "final/", "pictures/"),
        ("callbacks.norms=null", "gradient_norm/", "throughput/"),
        ("callbacks.throughput=false", "throughput/", "gradient_norm/"),
        ("callbacks.dashboard=null", "pictures/", "throughput/"),
    ],
)
def test_each_part_can_be_switched_off(shown, tmp_path, off, gone, there):
    train(shown("trainer.max_epochs=1", off), tmp_path)
    tags = {tag for tags in read(tmp_path).Tags().values() if isinstance(tags, list) for tag in tags}
    assert not [tag for tag in tags if tag.startswith(gone)]
    assert [tag for tag in tags if tag.startswith(there)]


def test_without_tensorboard_nothing_is_written_or_said(shown, tmp_path, no_complaints, capsys):
    train(shown("logger=none"), tmp_path)
    assert not list(tmp_path.glob("events*"))
    assert not list(tmp_path.glob("0*"))
    assert "dashboard:" not in capsys.readouterr().out


def test_the_cost_of_the_pictures_is_logged(shown, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(shown("trainer.max_epochs=1"), tmp_path)
    said = r"dashboard: 1 epoch pictured in \d+\.\d s beside the training, which waited \d+\.\d s"
    assert re.search(said, (tmp_path / "train.log").read_text())


def test_a_picture_that_fails_is_logged_and_does_not_end_the_training(shown, tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(plots, "pixels", fail)
    train(shown("trainer.max_epochs=1"), tmp_path)
    assert "A picture could not be drawn: ZeroDivisionError('planted'). The training goes on." in caplog.messages
    assert Run(tmp_path).status["state"] == "done"


@pytest.mark.slow
def test_only_the_first_rank_writes_to_tensorboard(run_script, tmp_path):
    quick = ("data=fashion_mnist_sample", "trainer=ddp", "trainer.devices=2", "trainer.max_epochs=1")
    peaks = f"callbacks.throughput.peaks_path={tmp_path}/peaks.json"
    for arguments in (("run_name=watched", peaks), ("run_name=alone", "callbacks=none")):
        finished = run_script("train.py", *quick, *arguments)
        assert finished.returncode == 0, finished.stderr
        assert "Warning" not in finished.stderr
    watched, alone = (tmp_path / "outputs" / "runs" / name for name in ("watched", "alone"))
    weights = [safetensors.torch.load_file(path / "weights.safetensors") for path in (watched, alone)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    events = read(watched)
    assert [image.step for image in events.Images("pictures/probe")] == [1]
    assert len(list(watched.glob("events.out.tfevents.*"))) == 2  # of the training, and of the summary


def test_the_shipped_configuration_names_what_can_be_switched_off():
    shipped = yaml.safe_load((CONF / "callbacks" / "default.yaml").read_text())
    assert {"curves", "throughput", "norms", "dashboard"} <= set(shipped)
    assert set(shipped["dashboard"]) == {"_target_", "images", "histograms", "summary", "every"}


# Scalars


def test_norms_agree_with_each_other_and_with_the_final_weights(run):
    """Of plain SGD: a step's length is the learning rate times the gradient's."""
    events = read(run.path)
    weights = safetensors.torch.load_file(run.path / "weights.safetensors")
    names = {"0_Conv2d": ["0.weight"], "11_Linear": ["11.weight"], "all": [*weights]}
    for name, parts in names.items():
        gradient, weight, ratio = (
            [point.value for point in events.Scalars(f"{kind}/{name}")]
            for kind in ("gradient_norm", "weight_norm", "update_ratio")
        )
        assert [point.step for point in events.Scalars(f"update_ratio/{name}")] == [1, 2, 3]
        for g, w, r in zip(gradient, weight, ratio, strict=True):
            assert r * w == pytest.approx(0.1 * g, rel=1e-3)
        assert weight[-1] == pytest.approx(math.sqrt(sum(weights[part].square().sum().item() for part in parts)))


def test_gradient_norms_are_those_before_clipping(shown, tmp_path):
    train(shown("trainer.gradient_clip_val=1e-3", "trainer.max_epochs=1"), tmp_path)
    events = read(tmp_path)
    gradient, weight, ratio = (
        events.Scalars(f"{kind}/all")[0].value for kind in ("gradient_norm", "weight_norm", "update_ratio")
    )
    assert gradient > 1e-2
    assert ratio * weight == pytest.approx(0.1 * 1e-3, rel=1e-2)
