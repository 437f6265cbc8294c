import json
import os
import shutil

import pytest
import torch

import convnets
from convnets.callbacks.history import NOT_METRICS
from convnets.files import RunFolderError
from convnets.results.trained_run import TrainedRun as Run
from convnets.results.trained_run import load_run
from convnets.runs.finding import find_folders
from convnets.runs.run import read_run
from convnets.training.train import train


@pytest.fixture
def outputs(small, tmp_path, monkeypatch):
    """Two finished runs, the second in a sweep twice."""
    monkeypatch.chdir(tmp_path)
    train(small("trainer.max_epochs=1"), tmp_path / "outputs" / "runs" / "first")
    for name, accuracy in (("a", 0.25), ("b", 0.75)):
        path = tmp_path / "outputs" / "sweeps" / "lr" / name
        train(small("trainer.max_epochs=1"), path)
        result = json.loads((path / "result.json").read_text())
        result["metrics"]["val/accuracy"] = accuracy
        (path / "result.json").write_text(json.dumps(result))
    return tmp_path / "outputs"


def test_a_run_is_found_by_folder_name_latest_and_best(outputs, caplog):
    assert load_run("outputs/runs/first").path.name == "first"
    assert load_run("first").path == load_run(outputs / "runs" / "first").path.relative_to(outputs.parent)
    os.utime(outputs / "sweeps" / "lr" / "a" / "status.json", (2**32, 2**32))
    assert load_run("latest").path.name == "a"
    os.utime(outputs / "runs" / "first" / "config.yaml", (2**32, 2**32))  # which tells when a run began
    assert find_folders(["latest"]) == [load_run("latest").path]
    os.utime(outputs / "runs" / "first" / "config.yaml", (0, 0))
    (outputs / "runs" / "first" / "status.json").unlink()  # as in a run killed before it wrote one
    assert load_run("latest").path.name == "a"
    assert load_run("best:lr").path.name == "b"
    assert load_run("best:outputs/sweeps/lr").path.name == "b"
    assert "is the best of 2 on the test split itself: its accuracy flatters" in caplog.text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("frist", r"There is no run frist\. Did you mean first\?"),
        ("nothing at all", r"There is no run nothing at all\. RUN is a folder, its name, latest, or best:SWEEP\."),
        ("best:rates", r"There is no finished run in outputs/sweeps/rates\. Sweeps: lr\."),
        ("outputs", r"outputs is no run's folder: it has no config\.yaml"),
        ("", r"The name of a run is empty\. RUN is a folder, its name, latest, or best:SWEEP\."),
        ("twice", r"There are several runs twice\. Give the folder: outputs/runs/twice or outputs/sweeps/lr/twice\."),
    ],
)
def test_a_run_that_is_not_there_is_explained(outputs, name, said):
    for folder in ("runs", "sweeps/lr"):
        shutil.copytree(outputs / "runs" / "first", outputs / folder / "twice")
    with pytest.raises(RunFolderError, match=said):
        _ = load_run(name).config


def test_before_the_first_run_latest_says_how_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFolderError, match=r"There is no run in outputs/ yet: python .*scripts/train\.py makes one"):
        load_run("latest")


def test_a_loaded_run_has_all_that_a_notebook_needs(outputs):
    before = torch.get_rng_state()
    run = convnets.load_run("first")
    assert run.config.model.lr == 0.1
    assert run.metrics == run.result["metrics"]
    assert not run.classifier.training
    assert torch.equal(torch.get_rng_state(), before)  # a notebook's own random numbers stay
    images, labels = next(iter(run.datamodule.test_dataloader()))
    with torch.inference_mode():
        scores = run.classifier(images)
    assert scores.shape == (len(labels), 10)
    assert run.history == [{"epoch": 1, **run.metrics, **{key: run.history[0][key] for key in NOT_METRICS}}]


def test_a_run_says_what_it_is_and_how_far_it_has_come(outputs):
    path = outputs / "runs" / "first"
    accuracy = f"val/accuracy {Run(path).metrics['val/accuracy']:.4f}"
    assert repr(Run(path)) == (
        f"TrainedRun outputs/runs/first: lenet on fashion_mnist_sample, done, 1 of 1 epochs, {accuracy}"
    )
    (path / "result.json").unlink()
    run = Run(path)
    run.set_status("interrupted", epoch=1, num_epochs=1)
    assert repr(run).endswith(f"interrupted, 1 of 1 epochs, {accuracy}")
    run.set_status("failed", error="NonFiniteLossError: the training has diverged.")
    assert repr(run).endswith(f"failed, 1 of 1 epochs, {accuracy}, NonFiniteLossError: the training has diverged.")
    (path / "config.yaml").write_text("a: [")
    assert "outputs/runs/first: " in repr(run)
    assert "config.yaml cannot be read" in repr(run)


def test_weights_of_another_network_are_refused(small, tmp_path):
    train(small("trainer.max_epochs=1"), tmp_path / "run")
    config = Run(tmp_path / "run").config
    config.data.resize = 32
    Run(tmp_path / "run").save_config(config)
    with pytest.raises(RunFolderError, match=r"weights\.safetensors does not hold the weights of .*config\.yaml"):
        _ = Run(tmp_path / "run").classifier


def test_a_run_whose_callbacks_had_another_name_is_read(small, tmp_path):
    config = small("callbacks=default")
    Run(tmp_path).save_config(config)
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("convnets.dashboard.", "convnets.callbacks."))
    assert Run(tmp_path).config == config
    assert read_run(tmp_path).settings == Run(tmp_path).settings
    assert not Run(tmp_path).finished_result(dict(config))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("result.json", '{"metrics": 5, "validated_on": "holdout"}'),
        ("result.json", '{"metrics": {}}'),
        ("result.json", "["),
        ("config.yaml", "model: 5"),
        ("config.yaml", "a: b"),
    ],
)
def test_a_damaged_file_is_named(small, tmp_path, name, content):
    Run(tmp_path).save_config(small())
    (tmp_path / name).write_text(content)
    with pytest.raises(RunFolderError, match=rf"{name} is damaged\. To train anew: rm -r"):
        _ = Run(tmp_path).config, Run(tmp_path).metrics
