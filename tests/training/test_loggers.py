import csv

import pytest
import yaml
from support.breaking import interrupt, train_through

from convnets.configuration.content import content_hash
from convnets.configuration.rules import ConfigurationError
from convnets.training import loggers
from convnets.training.train import train

PICTURED = ("callbacks=default", "callbacks.progress=null", "callbacks.dashboard.histograms=false")


@pytest.fixture
def tracked(compose):
    """Two short epochs on packaged images with these loggers."""

    def tracked(*overrides):
        quick = ["data=fashion_mnist_sample", "trainer=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=3"]
        return compose(*quick, *overrides)

    return tracked


def rows_of(run_dir):
    with (run_dir / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_several_loggers_take_the_same_rows(tracked, tmp_path):
    config = tracked("callbacks=none", "logger=[tensorboard,csv]")
    assert content_hash(config) == content_hash(tracked("callbacks=none"))
    train(config, tmp_path / "run")
    folder = tmp_path / "run" / "loggers" / "csv" / "version_0"
    rows = rows_of(tmp_path / "run")
    written = rows_of(folder)
    assert [(row["step"], row["val/accuracy"], row["train/loss"]) for row in written] == [
        (row["epoch"], row["val/accuracy"], row["train/loss"]) for row in rows
    ]
    assert yaml.safe_load((folder / "hparams.yaml").read_text())["model"]["lr"] == config.model.lr
    assert len([*(tmp_path / "run").glob("events.out.tfevents.*")]) == 1


@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_a_logger_without_its_package_names_the_extra(tracked, tmp_path, monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(ConfigurationError, match=f"logger={name} needs the extra `{name}`: python -m pip install"):
        train(tracked(f"logger={name}"), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def pictured(config, run_dir):
    """Train, with a signal in the second epoch; return the epochs' accuracies."""
    train_through(config, run_dir, {5: interrupt})
    return [(row["epoch"], row["val/accuracy"]) for row in rows_of(run_dir)]


@pytest.mark.filterwarnings("ignore")  # of the library
def test_mlflow_has_metrics_configuration_and_pictures_of_one_run_after_a_resume(tracked, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="without the extra mlflow")
    monkeypatch.chdir(tmp_path)
    rows = pictured(tracked("logger=[tensorboard,mlflow]", *PICTURED), tmp_path / "outputs" / "runs" / "watched")
    client = mlflow.MlflowClient("sqlite:///outputs/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'convnets'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "watched"
    assert run.info.status == "FINISHED"
    assert run.data.params["model/lr"] == "0.1"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "val/accuracy")] == rows
    images = [artifact.path for artifact in client.list_artifacts(run.info.run_id, "images")]
    assert any("confusion" in path for path in images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_has_metrics_configuration_and_pictures_in_the_run_s_folder(tracked, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="without the extra wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")  # which Lightning sets, and leaves so
    run_dir = tmp_path / "watched"
    rows = pictured(tracked("logger=wandb", "logger.wandb.offline=true", *PICTURED), run_dir)
    assert wandb.run is None  # the next training in the process has a run of its own
    folders = sorted((run_dir / "loggers" / "wandb" / "wandb").glob("offline-run-*"))
    version = (run_dir / "loggers" / "wandb.txt").read_text()
    assert [folder.name.rpartition("-")[2] for folder in folders] == [version] * 2  # each process adds to one run
    content = b"".join(path.read_bytes() for folder in folders for path in folder.glob("*.wandb"))
    assert all(repr(value).encode() in content for _, value in rows)
    assert b"label_smoothing" in content
    assert len([*run_dir.glob("loggers/wandb/wandb/offline-run-*/files/media/images/pictures/confusion*.png")]) == len(
        rows
    )


@pytest.mark.filterwarnings("ignore")
def test_trackio_has_metrics_configuration_and_pictures_of_one_run_after_a_resume(tracked, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which the library reads as it is imported
    trackio = pytest.importorskip("trackio", reason="without the extra trackio")
    rows = pictured(tracked("logger=[csv,trackio]", *PICTURED), tmp_path / "runs" / "watched")
    (run,) = trackio.Api().runs("convnets")
    assert run.name == "watched"
    assert run.config["model"]["lr"] == 0.1
    logged = trackio.sqlite_storage.SQLiteStorage.get_logs("convnets", "watched")
    assert [(row["step"], row["val/accuracy"]) for row in logged if "val/accuracy" in row] == rows
    assert len([row for row in logged if "pictures/confusion" in row]) == len(rows)
