import json
import re

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from support.boots import saved
from support.fruit import COLOURS, FruitDataModule, picture

from convnets.configuration.rules import ConfigurationError
from convnets.data import DataUnavailableError
from convnets.files import RunFolderError
from convnets.results.evaluation import evaluate, load_evaluation
from convnets.results.export import _run_onnx, _run_torch, export
from convnets.results.trained_run import TrainedRun
from convnets.training.train import train


class ChangingDataModule(FruitDataModule):
    """Fruit whose class names and images are known from the files alone, as those of a folder are."""

    files_found = tuple(COLOURS)
    digest = "1"

    def prepare_data(self):
        if not self.files_found:
            raise DataUnavailableError("the files are gone")
        self.class_names = self.files_found


OPTIONS = ("trainer.max_epochs=1", "data.normalize=standard")
TARGET = f"{__name__}.{ChangingDataModule.__name__}"


@pytest.fixture(scope="module")
def fruit(small):
    """A quick run on the fruit."""

    def fruit(*overrides):
        config = small("data.resize=32", "data.batch_size=30", "trainer.limit_train_batches=null", *overrides)
        OmegaConf.update(config, "data._target_", TARGET)
        return config

    return fruit


@pytest.fixture(scope="module")
def run(fruit, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    train(fruit(*OPTIONS), path)
    return TrainedRun(path, trust=[TARGET])


def test_a_run_says_what_images_it_was_trained_on(run):
    scaled = run.datamodule.splits["train"].stored.numpy() / 255
    assert json.loads((run.path / "data.json").read_text()) == {
        "name": "fruit",
        "class_names": ["apple", "banana", "lime"],
        "num_channels": 3,
        "image_size": 32,
        "mean": pytest.approx(scaled.mean(axis=(0, 2, 3)).tolist()),
        "std": pytest.approx(scaled.std(axis=(0, 2, 3)).tolist()),
        "num_images": {"train": 60, "val": 12, "test": 12},
        "digest": "1",
    }


def is_damaged(datamodule, split):
    raise ValueError("a file is damaged")


@pytest.mark.parametrize(
    ("name", "value", "error", "to"),
    [
        ("files_found", (), DataUnavailableError, "torch"),
        ("read_split", is_damaged, ConfigurationError, "onnx"),
    ],
)
def test_a_run_is_used_when_its_images_are_gone(run, tmp_path, monkeypatch, name, value, error, to):
    path = saved(tmp_path, picture("lime"))
    (before,) = run.predict(path)
    monkeypatch.setattr(ChangingDataModule, name, value)
    with pytest.raises(error):
        _ = TrainedRun(run.path, run.trust).datamodule
    for fact, nothing in (("class_names", ()), ("num_channels", None), ("image_size", None)):
        monkeypatch.setattr(ChangingDataModule, fact, nothing)
    later = TrainedRun(run.path, run.trust)
    assert later.predict(path) == [before]
    with torch.inference_mode():
        scores = later.classifier(torch.from_numpy(np.asarray(picture("lime")).transpose(2, 0, 1)[None].copy()))
    assert scores[0].softmax(dim=0).max().item() == pytest.approx(before.probability)
    exported = export(later, to)
    assert "the run's for 100 images of random bytes, as its test images cannot be had" in str(exported)
    images = torch.randint(256, (5, 3, 32, 32)).byte()
    scores = (_run_onnx if to == "onnx" else _run_torch)(exported.path, images)
    expected = run.classifier(later.build_datamodule().to_network_input(images))
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-3)


def test_images_that_have_changed_are_named(run, monkeypatch, caplog):
    monkeypatch.setattr(ChangingDataModule, "digest", "2")
    assert TrainedRun(run.path, run.trust).datamodule.splits
    assert f"The images of {run} have changed since it began: digest was 1 and is 2." in caplog.text
    monkeypatch.setattr(ChangingDataModule, "files_found", (*COLOURS, "quince"))
    with pytest.raises(RunFolderError, match="since it began: classes added: quince; digest was 1 and is 2"):
        _ = TrainedRun(run.path, run.trust).datamodule


def test_a_run_does_not_resume_on_other_images(fruit, tmp_path, monkeypatch):
    train(fruit("trainer.max_epochs=1", "checkpoint.keep=true"), tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    monkeypatch.setattr(ChangingDataModule, "digest", "2")
    with pytest.raises(RunFolderError, match=re.escape(refusal(tmp_path / "run"))):
        train(fruit("trainer.max_epochs=1", "checkpoint.keep=true"), tmp_path / "run")


def refusal(run_dir):
    way_out = f"Bring them back, set run_name=NAME for a new folder, or remove this one: rm -r {run_dir}"
    return f"digest was 1 and is 2. {way_out}"


def test_a_finished_run_is_not_taken_for_one_on_the_images_that_there_are_now(run, fruit, monkeypatch, caplog):
    caplog.set_level("INFO")
    config = fruit(*OPTIONS)
    monkeypatch.setattr(ChangingDataModule, "digest", "2")
    with pytest.raises(RunFolderError, match=re.escape(refusal(run.path))):
        train(config, run.path)
    monkeypatch.setattr(ChangingDataModule, "digest", property(are_gone))
    assert train(config, run.path) == run.result
    assert "trained already: nothing was done" in caplog.text


def are_gone(datamodule):
    raise DataUnavailableError("the folder is gone")


def test_a_stored_evaluation_of_images_that_have_changed_is_not_used(run, monkeypatch):
    stored = run.path / "evaluation-test.json"
    assert evaluate(run)["images_digest"] == "1"
    kept = json.dumps({**json.loads(stored.read_text()), "kept": True})
    for digest in ("1", property(are_gone), "2"):
        stored.write_text(kept)
        monkeypatch.setattr(ChangingDataModule, "digest", digest)
        evaluation = load_evaluation(TrainedRun(run.path, run.trust), "test")
        assert ("kept" in evaluation) == (digest != "2")
    assert evaluation["images_digest"] == "2"
