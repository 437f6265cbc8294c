"""The READMEs are right: their commands run, their tables hold what the files hold, what they add works."""

import dataclasses
import os
import re
import runpy
import shlex
import shutil
import sys
import textwrap
import tomllib
import types
from functools import cache
from pathlib import Path

import hydra
import numpy as np
import pytest
import yaml
from support.repository import CONF, ROOT, hydra_context

from convnets.configuration.composition import adding_keys
from convnets.configuration.content import flatten
from convnets.data import DataUnavailableError
from convnets.runs.run import STARTED_FILES
from convnets.training.command import prepare
from convnets.training.train import train
from hydra_plugins.gpu_pool_launcher.gpu_pool_launcher import GpuPoolConf

ROOMS = ("conf", "outputs", "scripts", "src", "tests")
PAGES = {path: path.read_text() for path in [*ROOT.glob("*.md"), *(p for r in ROOMS for p in (ROOT / r).rglob("*.md"))]}
DOOR = PAGES[ROOT / "README.md"]
CODE = PAGES[ROOT / "src" / "convnets" / "README.md"]
CHOICES = PAGES[CONF / "README.md"]
EVERYTHING = "\n".join(PAGES.values())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

BLOCKS = re.findall(r"^ *```sh\n(.*?)^ *```$", EVERYTHING, re.DOTALL | re.MULTILINE)
LINES = [line.strip() for block in BLOCKS for line in block.splitlines()]
LINES += re.findall(r"`((?:python scripts/|make )[^`]+)`", EVERYTHING)
COMMANDS = sorted({shlex.join(shlex.split(re.sub(r"\blatest\b", "RUN", line), comments=True)) for line in LINES})
TRAININGS = [
    command.partition("train.py ")[2] for command in COMMANDS if re.match(r"python \S+train\.py (-m )?\w+[.=]", command)
]
OTHERS = [command for command in COMMANDS if re.match(r"python scripts/(?!train\.py)", command)]
# Of those, what takes no more than a moment is run, on two small runs; of the others the words are understood.
RUN = re.compile(r"python scripts/(compare|evaluate|predict|summarize|report(?!.*--(prune|html|records|metric)))")
ADDED = re.compile(r"model=mlp|data=squares|loss=poly")  # which the last tests add


def test_the_door_has_one_screen_and_then_some():
    assert len(DOOR.splitlines()) <= 200
    assert len(TRAININGS) > 20  # of none, pytest would test nothing
    assert len(OTHERS) > 20


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A folder as the commands expect it: two runs, a sweep of theirs, pictures."""
    folder = tmp_path_factory.mktemp("trained")
    for seed, name in enumerate(("RUN", "OTHER")):
        train(small(f"seed={seed}", "trainer.max_epochs=1"), folder / "outputs" / "runs" / name)
        for sweep in ("NAME", "activations"):
            shutil.copytree(folder / "outputs" / "runs" / name, folder / "outputs" / "sweeps" / sweep / f"in-{name}")
    (folder / "folder").mkdir()
    for name in ("photo.jpg", "folder/coat.png", "PHOTOS/cats/coat.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / ".github" / "lenet-feature-maps-coat.png", folder / name)
    return folder


@pytest.fixture
def there(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


@pytest.mark.parametrize("words", [words for words in TRAININGS if not ADDED.search(words)])
def test_a_training_composes(words, there):
    words = [word for word in shlex.split(words) if not re.match(r"-m$|launcher=(ray|slurm)|hydra\.|.*=tag\(", word)]
    first = [re.sub(r"(=[\w./-]+),.*", r"\1", word) for word in words]  # of a sweep, the first job
    with hydra_context():
        assert prepare(hydra.compose("train", adding_keys(first), return_hydra_config=True))[1]


@pytest.mark.parametrize("command", OTHERS)
def test_a_command_is_understood_and_a_quick_one_runs(command, there, monkeypatch, capsys):
    _, script, *words = shlex.split(command)
    monkeypatch.setattr(sys, "argv", [script, *words])
    if RUN.match(command):
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        assert end.value.code in (0, None), capsys.readouterr()
    else:
        runpy.run_path(str(ROOT / script))["command"].parse_intermixed_args(words)


def test_every_other_command_is_known():
    extras = "|".join(PROJECT["optional-dependencies"])
    known = [
        *(r"python scripts/train\.py( --help| --cfg job --resolve|)", r"tensorboard --logdir outputs"),
        rf"\.venv/bin/pip install -e '\.\[({extras})\]'",
        r"PYTHONPATH=\. python scripts/\S+ .*(poly|Poly).*",
    ]
    trainings = [f"python scripts/train.py {words}" for words in TRAININGS]
    targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    for command in sorted({*COMMANDS} - {*OTHERS} - {*trainings}):
        if command.startswith("make "):
            _, target, *options = shlex.split(command)
            assert target in targets, command
            for path in re.findall(r"tests/\w+", " ".join(options)):
                assert (ROOT / path).exists(), command
        else:
            assert any(re.fullmatch(pattern, command) for pattern in known), command


def anchors(text):
    titles = re.findall(r"^#+ (.*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / path)) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(PAGES[target]), link


def test_every_script_file_of_a_run_and_extra_is_named():
    for path in (ROOT / "scripts").glob("*.py"):
        assert f"scripts/{path.name}" in PAGES[ROOT / "scripts" / "README.md"], path
    for name in STARTED_FILES:
        assert f"`{name}" in PAGES[ROOT / "outputs" / "README.md"], name
    installed = {"test", "onnx", "search", "timm", "coverage"}  # by make
    for extra in PROJECT["optional-dependencies"].keys() - installed:
        assert f"'.[{extra}]'" in EVERYTHING, extra


def section(name):
    return CHOICES.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_of_a_group_is_named(group):
    names = {str(path.relative_to(CONF / group).with_suffix("")) for path in (CONF / group).rglob("*.yaml")}
    rows = "".join(re.findall(r"^\| (`.*?) \|", section(group), re.MULTILINE))
    folded = tuple(name.removesuffix("NAME") for name in re.findall(r"`([\w/]+/NAME)`", rows))
    named = set(re.findall(r"`([\w./]+)`", rows))
    assert {name for name in names if not name.startswith(folded)} <= named if folded else names <= named


@cache
def keys():
    """The keys that the files of conf/ list, each with the values that it has in one of them."""
    listed = {}
    for path in [CONF / "train.yaml", *(path for group in GROUPS for path in (CONF / group).rglob("*.yaml"))]:
        group = path.relative_to(CONF).parts[0]
        if group in ("experiment", "sweep", "launcher"):  # which only set keys of others
            continue
        content = yaml.safe_load(path.read_text()) or {}
        is_global = path.parent == CONF or "@package _global_" in path.read_text()
        for key, value in flatten(content if is_global else {group: content}).items():
            if not re.search(r"(^|\.)(defaults|_\w+_)(\.|$)|^hydra\.", key) and value != {}:
                listed.setdefault(key, []).append(value)
    return listed


def test_every_key_is_in_the_table_with_its_default():
    rows = re.findall(r"^\| `([a-z_.]+)` \| (.*?) \| ", CHOICES, re.MULTILINE)
    documented = {key: default for key, default in rows if not key.startswith("hydra.")}
    documented = {key: default for key, default in documented.items() if "." in key or key in keys()}
    assert documented.keys() == keys().keys()
    for key, default in documented.items():
        plain = [value for value in keys()[key] if "${" not in str(value) and value != "???"]
        if re.fullmatch("`.*`", default) and plain:
            assert yaml.safe_load(default.strip("`")) in plain, f"{key} is {plain}"


def test_every_option_of_the_launcher_is_in_the_table_with_its_default():
    rows = dict(re.findall(r"^\| `hydra\.launcher\.(\w+)` \| `(.*?)` \|", CHOICES, re.MULTILINE))
    options = {field.name: field.default for field in dataclasses.fields(GpuPoolConf) if field.name != "_target_"}
    assert {name: yaml.safe_load(default) for name, default in rows.items()} == options


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The module and the files of conf/ that a section adds; returns the override that finds them."""

    def added(title, module, *groups):
        text = CODE.partition(f"## {title}\n")[2].partition("\n## ")[0]
        (code,), files = (
            [textwrap.dedent(block) for block in re.findall(rf"   ```{language}\n(.*?)```", text, re.DOTALL)]
            for language in ("python", "yaml")
        )
        exec(code, (made := types.ModuleType(module)).__dict__)
        monkeypatch.setitem(sys.modules, module, made)
        for file, group in zip(files, groups, strict=True):
            assert f"_target_: {module}." in file
            path = tmp_path / "conf" / f"{group}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file)
        return f"hydra.searchpath=[file://{tmp_path / 'conf'}]"

    return added


def test_the_three_steps_to_a_new_network_work(added, tmp_path, small):
    search = added("Add a network", "convnets.networks.mlp", "model/mlp")
    result = train(small(search, "model=mlp", "model.width=32"), tmp_path / "run")
    assert result["metrics"]["train/loss"] < 3
    with (
        hydra_context(),
        pytest.raises(ValueError, match=r"model\.width must be a whole number such as 256, got 'wide'"),
    ):
        prepare(hydra.compose("train", [search, "model=mlp", "model.width=wide"], return_hydra_config=True))[1]


def test_the_three_steps_to_a_new_data_set_work(added, tmp_path, small):
    search = added("Add a data set", "convnets.data.squares", "data/squares")
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


def test_the_three_steps_to_a_loss_and_an_optimizer_work(added, tmp_path, small):
    title = "Add a loss, an optimizer, a schedule, a logger or a callback"
    search = added(title, "mine", "loss/poly", "optimizer/layerwise")
    words = (search, "optimizer=layerwise", "trainer.max_epochs=1")
    usual, poly = (
        train(small(*words, *more), tmp_path / name)["metrics"]["train/loss"]
        for name, more in {"usual": (), "poly": ("loss=poly", "loss.epsilon=2")}.items()
    )
    assert poly > usual + 1  # ten classes at chance: 2 x 0.9 more
