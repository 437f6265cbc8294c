"""The README is right: its commands compose, its new network trains."""

import dataclasses
import re
import shlex
import sys
import textwrap
import tomllib
import types

import hydra
import numpy as np
import pytest
from omegaconf import OmegaConf
from support.repository import ROOT, hydra_context

from convnets.configuration.composition import adding_keys
from convnets.data import DataUnavailableError
from convnets.runs.run import STARTED_FILES
from convnets.training.command import prepare
from convnets.training.train import train
from hydra_plugins.gpu_pool_launcher.gpu_pool_launcher import GpuPoolConf

README = (ROOT / "README.md").read_text()
COMMANDS = sorted(set(re.findall(r"python scripts/train\.py((?: [\w.]+=[^\s`|]+)+)", README)))
assert COMMANDS  # of none, pytest would test nothing


@pytest.mark.parametrize(
    "overrides", [words for words in COMMANDS if not re.search("model=mlp|data=squares|RUN", words)]
)
def test_commands_compose(overrides):
    with hydra_context():
        words = [re.sub(r"(=[\w.]+),.*", r"\1", word) for word in shlex.split(overrides)]  # of a sweep, the first job
        assert prepare(hydra.compose("train", adding_keys(words), return_hydra_config=True))[1]


def test_every_script_model_and_run_file_is_named():
    for path in [*(ROOT / "scripts").glob("*.py"), *(ROOT / "conf" / "model").glob("*.yaml")]:
        assert path.name in README or f"`{path.stem}`" in README, path
    for name in STARTED_FILES:
        assert f"`{name}" in README


def test_every_option_of_the_launcher_is_documented():
    documented = re.findall(r"^\| `hydra\.launcher\.(\w+)`", README, re.MULTILINE)
    assert documented == [field.name for field in dataclasses.fields(GpuPoolConf) if field.name != "_target_"]


def test_every_extra_sweep_and_launcher_is_named():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert all(
        f"'.[{extra}]'" in README for extra in extras if extra not in ("test", "onnx")
    )  # which make env installs
    for group in ("sweep", "launcher"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert re.search(rf"\b{path.stem}\b", README), path


def test_paths_exist():
    paths = re.findall(r"\]\((\.[\w./-]+)\)", README)
    keys = re.findall(r"^\| `([a-z_]+(?:\.[a-z_]+)?)`", README, re.MULTILINE)
    assert paths
    assert "data.resize" in keys
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    with hydra_context():
        config = hydra.compose("train", ["experiment=book/lenet"])
    for key in keys:
        group, _, name = key.partition(".")
        if name in ("csv", "json", "log", "png", "safetensors", "yaml"):  # a file
            continue
        files = (ROOT / "conf" / group).glob("*.yaml") if name else ()
        known = OmegaConf.select(config, key, default="missing") != "missing" or (ROOT / "conf" / key).is_dir()
        assert known or any(re.search(rf"^ *{name}:", path.read_text(), re.MULTILINE) for path in files), key


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The class and the file of conf/GROUP that the README's section adds; returns the override that finds them."""

    def added(section, group, target):
        text = README.partition(f"## {section}\n")[2]
        code, yaml = (
            textwrap.dedent(re.search(rf"   ```{language}\n(.*?)```", text, re.DOTALL)[1]).strip()
            for language in ("python", "yaml")
        )
        module = types.ModuleType(target)
        exec(code, module.__dict__)
        monkeypatch.setitem(sys.modules, target, module)
        assert f"_target_: {target}." in yaml
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / f"{target.rpartition('.')[2]}.yaml").write_text(yaml)
        return f"hydra.searchpath=[file://{tmp_path / 'conf'}]"

    return added


def test_the_three_steps_to_a_new_network_work(added, tmp_path, small):
    search = added("Add a network", "model", "convnets.networks.mlp")
    result = train(small(search, "model=mlp", "model.width=32"), tmp_path / "run")
    assert result["metrics"]["train/loss"] < 3
    with (
        hydra_context(),
        pytest.raises(ValueError, match=r"model\.width must be a whole number such as 256, got 'wide'"),
    ):
        prepare(hydra.compose("train", [search, "model=mlp", "model.width=wide"], return_hydra_config=True))[1]


def test_the_three_steps_to_a_new_data_set_work(added, tmp_path, small):
    search = added("Add a data set", "data", "convnets.data.squares")
    labels = np.arange(40) % 2
    images = np.zeros((40, 3, 16, 16), np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 4 : 8 + 6 * label, 4 : 8 + 6 * label] = 255
    words = ("data=squares", f"data.dir={tmp_path}", "data.batch_size=8", "model.activation=relu", "optimizer=adamw")
    with pytest.raises(DataUnavailableError, match=r"train\.npz is not there: set data\.dir to the folder that"):
        train(small(search, *words), tmp_path / "run")
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", images=images, labels=labels)
    result = train(small(search, *words, "trainer.max_epochs=8"), tmp_path / "run")
    assert result["metrics"]["val/accuracy"] == 1
