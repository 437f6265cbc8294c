import json
import multiprocessing
import shutil

import pytest
import safetensors.torch
import torch
from PIL import Image

from convnets.configuration.rules import ConfigurationError
from convnets.data import FashionMNISTSampleDataModule
from convnets.files import RunFolderError
from convnets.networks import LeNet
from convnets.runs.run import Run
from convnets.training.building import build_classifier, build_datamodule, build_trainer
from convnets.training.train import train


def test_a_run_leaves_a_folder_that_describes_itself(small, tmp_path):
    result = train(small("logger=tensorboard"), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir() if not path.name.startswith("events.out")}
    assert names == {
        ".lock", "code.json", "data.json", "config.yaml", "status.json", "result.json", "metrics.csv",
        "weights.safetensors", "curves.png", "curves.svg", "train.log",
    }  # fmt: skip
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1
    run = Run(tmp_path / "run")
    assert run.config["model"]["lr"] == 0.1
    assert run.status["state"] == "done"
    assert run.status["epoch"] == 2
    assert run.result == json.loads(json.dumps(result))
    assert set(result["metrics"]) == {"train/loss", "train/accuracy", "val/loss", "val/accuracy"}
    assert result["versions"]["torch"] == torch.__version__.split("+")[0]
    network = LeNet()
    network.load_state_dict(safetensors.torch.load_file(run.path / "weights.safetensors"))
    with Image.open(run.path / "curves.png") as picture:
        assert picture.size == (720, 456)
    log = (run.path / "train.log").read_text()
    assert "XavierInit: weights of 5 layers" in log
    assert "Traceback" not in log


def test_the_saved_weights_are_those_that_were_validated(small, tmp_path):
    config = small("model.lr=0.5")
    result = train(config, tmp_path / "run")
    datamodule = build_datamodule(config)
    classifier = build_classifier(config, datamodule)
    classifier.network.load_state_dict(safetensors.torch.load_file(tmp_path / "run" / "weights.safetensors"))
    build_trainer(config, tmp_path / "other").validate(classifier, datamodule=datamodule, verbose=False)
    assert classifier.metrics("val") == {key: result["metrics"][key] for key in ("val/loss", "val/accuracy")}


def test_two_runs_of_a_configuration_are_the_same_to_the_bit(small, tmp_path):
    config = small(
        "model=vgg", "data.resize=32", "model.blocks=[[1,8],[1,8]]", "model.hidden=[32,32]", "data.augment=shift_flip"
    )
    results = [train(config, tmp_path / folder)["metrics"] for folder in ("a", "b")]
    weights = [(tmp_path / folder / "weights.safetensors").read_bytes() for folder in ("a", "b")]
    assert results[0] == results[1]
    assert weights[0] == weights[1]


def test_callbacks_that_only_watch_change_no_weight(small, tmp_path):
    train(small(), tmp_path / "a")
    train(small("callbacks=default", "logger=tensorboard"), tmp_path / "b")
    a, b = ((tmp_path / folder / "weights.safetensors").read_bytes() for folder in ("a", "b"))
    assert a == b


def test_a_finished_run_is_reported_and_not_repeated(small, tmp_path, capsys):
    first = train(small(), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir() if path.name != ".lock"}
    again = train(small("callbacks=default"), tmp_path / "run")  # what only watches is no other configuration
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "trained already: nothing was done. To repeat it: rm -r" in capsys.readouterr().out


def test_a_folder_of_another_configuration_is_refused_with_the_differences(small, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(RunFolderError) as error:
        train(small("model.lr=0.2"), tmp_path / "run")
    assert "model.lr: 0.1 there, 0.2 now" in str(error.value)
    assert "Set run_name=NAME for a new folder" in str(error.value)
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_a_folder_of_something_else_is_refused(small, tmp_path):
    (tmp_path / "metrics.csv").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds metrics\.csv, but no config\.yaml to say of what run"):
        train(small(), tmp_path)
    assert (tmp_path / "metrics.csv").read_text() == "mine"


@pytest.mark.parametrize("name", ["result.json", "config.yaml", "status.json"])
def test_a_damaged_file_is_named_with_the_way_out(small, trained, tmp_path, name):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / name).write_text("{")
    with pytest.raises(RunFolderError, match=rf"{name} is damaged. To train anew: rm -r "):
        train(small(), tmp_path / "run")


def test_a_finished_run_without_its_weights_is_refused(small, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"was finished, but lacks weights\.safetensors"):
        train(small(), tmp_path / "run")


def test_a_folder_that_cannot_be_made_is_named(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"file/run cannot be written: .* hydra\.run\.dir"):
        train(small(), tmp_path / "file" / "run")


def hold(path, held, leave):
    with Run(path).locked():
        Run(path).start({"seed": 0})
        held.set()
        leave.wait(60)


def test_a_folder_in_use_is_refused_and_a_dead_holder_holds_nothing(small, tmp_path):
    context = multiprocessing.get_context("fork")
    held, leave = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, held, leave))
    process.start()
    assert held.wait(30)
    with pytest.raises(RunFolderError, match=rf"in use by process {process.pid} on .* since 20.*run_name=NAME"):
        train(small(), tmp_path)
    process.kill()
    process.join()
    with Run(tmp_path).locked():
        assert Run(tmp_path).status["state"] == "running"  # what the dead one left; the lock tells the truth


def test_a_training_that_is_refused_leaves_no_folder(small, tmp_path):
    with pytest.raises(
        ConfigurationError, match="VGG with 5 pooling blocks needs images of at least 32 pixels, got 28"
    ):
        train(small("model=vgg", "data.resize=28"), tmp_path / "run")
    with pytest.raises(ConfigurationError, match=r"data\.holdout=1000 leaves nothing"):
        train(small("data.holdout=1000"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_refused(small, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(
        ConfigurationError,
        match=r"trainer\.accelerator=gpu, but torch finds no GPU here \(.+\): install .+, or set trainer=cpu",
    ):
        train(small("trainer=gpu"), tmp_path)


def test_with_a_holdout_the_best_epoch_is_kept_and_the_test_split_read_once_at_the_end(
    small, tmp_path, capsys, monkeypatch
):
    loaders = []
    for name in ("val_dataloader", "test_dataloader"):
        load = getattr(FashionMNISTSampleDataModule, name)
        monkeypatch.setattr(
            FashionMNISTSampleDataModule, name, lambda self, name=name, load=load: (loaders.append(name), load(self))[1]
        )
    config = small("data.holdout=100", "trainer.max_epochs=4", "optimizer=adamw", "trainer.limit_train_batches=null")
    result = train(config, tmp_path)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/accuracy")
    accuracies = [float(row.split(",")[column]) for row in rows[1:]]
    assert result["weights_of_epoch"] == accuracies.index(max(accuracies)) + 1
    assert result["metrics"]["val/accuracy"] == max(accuracies)
    assert result["validated_on"] == "holdout"
    assert set(result["metrics"]) >= {"test/loss", "test/accuracy"}
    assert loaders.index("test_dataloader") == len(loaders) - 1
    assert "the test split was evaluated only now" in capsys.readouterr().out


def test_without_a_holdout_the_last_epoch_is_reported(small, tmp_path, capsys):
    result = train(small(), tmp_path)
    assert result["weights_of_epoch"] == 2
    assert result["validated_on"] == "test split"
    assert "the last epoch's weights, on the test split" in capsys.readouterr().out


def test_checkpoints_stay_if_asked(small, tmp_path):
    train(small("checkpoint.keep=true", "data.holdout=100"), tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt", "best.ckpt"}


QUICK = ("data=fashion_mnist_sample", "callbacks=none", "logger=none")


def test_ranks_share_the_recipe_of_one_process(run_script, tmp_path):
    """Batches of 99 images, which two ranks cannot share equally, and a last one of 10."""
    same = (*QUICK, "data.batch_size=99", "trainer.max_epochs=2", "model.lr=0.5")
    for arguments in (
        (*same, "trainer=cpu", "run_name=one"),
        (*same, "trainer=ddp", "trainer.devices=2", "run_name=two"),
        (*same, "trainer=ddp", "trainer.devices=2", "run_name=several", "steps_per_execution=4"),
    ):
        finished = run_script("train.py", *arguments)
        assert finished.returncode == 0, finished.stderr
    one, two = (tmp_path / "outputs" / "runs" / name for name in ("one", "two"))
    weights = [safetensors.torch.load_file(run / "weights.safetensors") for run in (one, two)]
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], rtol=1e-4, atol=1e-5)
    metrics = [Run(run).result["metrics"] for run in (one, two)]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-4)
    assert (one / "metrics.csv").read_text().count("\n") == (two / "metrics.csv").read_text().count("\n") == 3
    several = tmp_path / "outputs" / "runs" / "several"
    assert (several / "weights.safetensors").read_bytes() == (two / "weights.safetensors").read_bytes()
    assert Run(several).result["metrics"] == metrics[1]


def test_ranks_agree_on_the_best_epoch_and_the_test_metrics(run_script, tmp_path):
    """In validation the last batch is one image, of which one rank has none."""
    arguments = (
        "data.batch_size=33",
        "data.holdout=100",
        "trainer.max_epochs=2",
        "trainer=ddp",
        "trainer.devices=2",
        "run_name=two",
    )
    finished = run_script("train.py", *QUICK, *arguments)
    assert finished.returncode == 0, finished.stderr
    metrics = Run(tmp_path / "outputs" / "runs" / "two").result["metrics"]
    assert metrics["test/accuracy"] * 200 == pytest.approx(round(metrics["test/accuracy"] * 200))  # each image once
    assert metrics["val/accuracy"] * 100 == pytest.approx(round(metrics["val/accuracy"] * 100))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "trainer.limit_train_batches=0.0001",
            r"trainer\.limit_train_batches=0\.0001 of 8 batches is none: set it to 0\.125",
        ),
        ("trainer.precision=16-mixed", r"trainer\.precision=16-mixed needs a GPU"),
        (
            "steps_per_execution=2",
            r"steps_per_execution=2 does not go with trainer\.limit_train_batches=3: set that to "
            r"null or a multiple of 2, or steps_per_execution=1\.",
        ),
        (
            "steps_per_execution=3 trainer.limit_train_batches=1.0",
            r"trainer\.limit_train_batches=1\.0: set that to null",
        ),
        ("steps_per_execution=3 trainer.accumulate_grad_batches=2", r"accumulate_grad_batches=2: set that to 1, or"),
        ("steps_per_execution=3 trainer.precision=16-mixed", r"16-mixed: set that to bf16-mixed or 32-true, or"),
        (
            "compile=reduce-overhead trainer.accumulate_grad_batches=2",
            r"compile=reduce-overhead cannot accumulate gradients: set trainer\.accumulate_grad_batches=1, or compile",
        ),
    ],
)
def test_settings_that_the_machine_or_the_data_exclude_are_refused_before_the_start(small, tmp_path, override, message):
    with pytest.raises(ConfigurationError, match=message):
        train(small(*override.split()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_start_that_broke_off_is_forgotten_and_an_end_that_broke_off_is_completed(small, tmp_path):
    run = Run(tmp_path / "run")
    config = small("checkpoint.keep=true")
    with run.locked():
        run.start({str(key): value for key, value in config.items()})
        run.set_status("failed", error="before the first epoch")
    result = train(config, run.path)
    assert "error" not in run.status
    run.set_status("running")  # as if killed right after result.json
    assert train(small("checkpoint.keep=false"), run.path) == result
    assert run.status["state"] == "done"
    assert not (run.path / "checkpoints").exists()
