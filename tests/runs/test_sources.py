"""A result is never taken for that of other code."""

import json
import sys

import pytest
from omegaconf import OmegaConf

from convnets.files import RunFolderError
from convnets.results.trained_run import TrainedRun as Run
from convnets.runs.sources import digest, training_sources
from convnets.training.extend import extend
from convnets.training.train import train
from convnets.training.train import train as train_again

NETWORK = '''"""A network of the user's."""
from torch import nn
from layers_of_mine import head


class Mine(nn.Sequential):
    """Small."""

    def __init__(self, image_size, in_channels, num_classes, **of_lenet):
        super().__init__(nn.AvgPool2d(4), nn.Flatten(), head(49 * in_channels, num_classes))  # (N, 10)
'''
HEAD = "from torch import nn\n\n\ndef head(n, m):\n    return nn.Linear(n, m)\n"


@pytest.fixture
def mine(tmp_path, monkeypatch, small):
    """A configuration of a user's network, in two files that no package holds."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "network_of_mine.py").write_text(NETWORK)
    (folder / "layers_of_mine.py").write_text(HEAD)
    monkeypatch.syspath_prepend(folder)
    yield folder, small("trainer.max_epochs=1", "model._target_=network_of_mine.Mine")
    for name in ("network_of_mine", "layers_of_mine"):
        sys.modules.pop(name, None)


def test_a_training_goes_through_its_own_network_and_no_other(compose):
    modules = training_sources(compose("model=resnext18", "data=fashion_mnist_sample"))
    assert {name for name in modules if name.startswith("convnets.networks")} == {
        "convnets.networks.resnext", "convnets.networks.resnet", "convnets.networks.residual",
        "convnets.networks.layers", "convnets.networks.lazy", "convnets.networks.head",
    }  # fmt: skip
    assert {*modules} >= {"convnets.classifier", "convnets.callbacks.steps", "convnets.data.sampling"}
    assert not any("dashboard" in name or "torch" in name for name in modules)


def test_files_that_import_a_name_from_each_other_are_each_found_once(mine, tmp_path):
    folder, config = mine
    (folder / "layers_of_mine.py").write_text(HEAD + "\n\nfrom network_of_mine import anything\n")
    (folder / "network_of_mine.py").write_text(NETWORK + "\n\nfrom layers_of_mine import anything\n")
    assert {name for name in training_sources(config) if "mine" in name} == {"network_of_mine", "layers_of_mine"}


@pytest.mark.parametrize("installed", [True, False])
def test_a_package_that_pip_installed_into_any_folder_is_not_the_users_code(mine, monkeypatch, tmp_path, installed):
    folder, config = mine
    (tmp_path / "target" / "other_of_mine").mkdir(parents=True)
    (tmp_path / "target" / "other_of_mine" / "__init__.py").write_text("x = 1\n")
    if installed:
        (tmp_path / "target" / "other-1.0.dist-info").mkdir()
        (tmp_path / "target" / "other-1.0.dist-info" / "RECORD").write_text("other_of_mine/__init__.py,sha256=abc,6\n")
    monkeypatch.syspath_prepend(tmp_path / "target")
    (folder / "layers_of_mine.py").write_text(HEAD + "\n\nimport other_of_mine\n")
    assert ("other_of_mine" in training_sources(config)) != installed


@pytest.mark.parametrize(
    "change",
    [
        ("layers_of_mine.py", "nn.Linear(n, m)", "nn.Linear(n, m, bias=False)"),
        ("network_of_mine.py", "AvgPool2d", "MaxPool2d"),
    ],
)
@pytest.mark.parametrize("unfinished", [False, True])
def test_other_code_never_gets_the_old_result_and_is_named(mine, tmp_path, change, unfinished):
    folder, config = mine
    name, before, after = change
    run = Run(tmp_path / "run", trust=["network_of_mine.Mine"])
    first = train(OmegaConf.merge(config, {"checkpoint": {"keep": True}}), run.path)
    if unfinished:
        (run.path / "result.json").unlink()
    path = folder / name
    path.write_text(path.read_text().replace(before, after))
    said = rf"is of other code than there is now: {path.stem}\. To train by this code, beside it: add run_name=NAME"
    with pytest.raises(RunFolderError, match=said):
        train_again(config, run.path)
    with pytest.raises(RunFolderError, match=said):
        train_again(extend(run, []), run.path)
    accepted = train_again(extend(run, ["ignore_code_changes=true"]), run.path)
    assert accepted["metrics"] == first["metrics"]  # finished, or with no step to go
    for again in (config, run.config):  # the difference was ignored for that once
        with pytest.raises(RunFolderError, match=said):
            train_again(again, run.path)
    with pytest.raises(RunFolderError, match=said):
        extend(run, ["trainer.max_epochs=2"])
    assert run.result == accepted  # which a refused extension leaves
    record = json.loads((run.path / "code.json").read_text())
    assert ("earlier" in record) is unfinished


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""Small."""', '"""Very small, as one sees."""'),
        ("  # (N, 10)", ""),
        ("nn.AvgPool2d(4), ", "nn.AvgPool2d(\n            4\n        ), "),
        ('"""A network of the user\'s."""\n', ""),
    ],
)
def test_a_comment_a_docstring_or_the_layout_is_no_difference(mine, tmp_path, before, after):
    folder, config = mine
    first = train(config, tmp_path / "run")
    path = folder / "network_of_mine.py"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    assert train_again(config, tmp_path / "run") == first


def test_a_run_that_does_not_record_its_code_is_not_taken_for_this_codes(small, tmp_path):
    train(small(), tmp_path / "run")
    (tmp_path / "run" / "code.json").unlink()
    with pytest.raises(RunFolderError, match=r"it has no code\.json to say by which"):
        train_again(small(), tmp_path / "run")


def test_weights_of_other_code_are_loaded_with_a_warning(mine, tmp_path, caplog):
    folder, config = mine
    train(config, tmp_path / "run")
    (folder / "layers_of_mine.py").write_text(HEAD.replace("def head", "x = 1\n\n\ndef head"))
    _ = Run(tmp_path / "run", trust=["network_of_mine.Mine"]).classifier
    assert "was trained by other code than there is now: layers_of_mine." in caplog.text


def test_a_sweep_refuses_other_code_before_any_job_is_started(run_script, tmp_path):
    job = [
        "-m",
        "seed=0",
        "data=fashion_mnist_sample",
        "trainer=smoke",
        "callbacks=none",
        "logger=none",
        "sweep_name=s",
    ]
    assert run_script("train.py", *job).returncode == 0
    (path,) = (tmp_path / "outputs" / "sweeps" / "s").glob("*/code.json")
    record = json.loads(path.read_text())
    record["modules"]["convnets.networks.lenet"] = "other"
    path.write_text(json.dumps(record))
    (tmp_path / "outputs" / "sweeps" / "s" / "logs").rename(tmp_path / "logs")
    refused = run_script("train.py", *job)
    assert refused.returncode == 1
    assert "is of other code than there is now: convnets.networks.lenet. To train" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "outputs" / "sweeps" / "s" / "logs").exists()
    (tmp_path / "logs").rename(tmp_path / "outputs" / "sweeps" / "s" / "logs")
    assert run_script("train.py", *job, "ignore_code_changes=true").returncode == 0


def test_the_digest_is_of_the_code(tmp_path):
    path = tmp_path / "code.py"
    path.write_text("def f(x):\n    'doc'\n    return x + 1  # one\n")
    first = digest(path)
    assert first == "bac9276f911497e6"
    path.write_text("def f(x): return x + 2\n")
    assert digest(path) != first
