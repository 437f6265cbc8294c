"""From files and overrides to a resolved configuration. Knows Hydra, not torch."""

import argparse
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from convnets.configuration.content import flatten, holds_out
from convnets.configuration.rules import PATHS, ConfigurationError, check
from convnets.configuration.shell import CONFIG_DIR, quoted
from convnets.configuration.signatures import further_keys

CONFIG_NAME = "train"  # of conf/train.yaml
# Hydra 1.3 asks which version's ways are meant, and 1.4, which has its own only, warns where it is told.
VERSION = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
# Groups of conf/ whose choice names a run.
GROUPS = ("model", "data", "loss", "optimizer", "schedule", "averaging", "stopping", "init", "callbacks")


def choices_of(group: str, folders: Sequence[Path]) -> list[str]:
    """What a group can be set to, by the files in these folders."""
    paths = [(path, folder / group) for folder in folders for path in (folder / group).rglob("*.yaml")]
    return sorted({str(path.relative_to(folder).with_suffix("")) for path, folder in paths})


def config_dirs(words: Sequence[str]) -> list[Path]:
    """conf/, and the user's own of the command line: of hydra.searchpath=[file://...], and of --config-dir."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--cfg", "-c")  # or -c would be taken for -cd
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    added = [word for word in words if word.startswith("hydra.searchpath=")]
    searched = re.findall(r"file://([^\],\"]+)", " ".join(added))
    return [CONFIG_DIR, *map(Path, [*searched, *parser.parse_known_args(list(words))[0].config_dir])]


def resolve(root: DictConfig, complete: bool = True) -> dict[str, Any]:
    """Resolve a composed configuration, Hydra's own part left out; in paths, `~` becomes the home folder.

    Args:
        complete: refuse values that a file leaves open (`???`); otherwise they are null.

    Raises:
        ConfigurationError: an interpolation leads nowhere, or a value is left open.
    """
    ours = OmegaConf.masked_copy(root, [str(key) for key in root if key != "hydra"])
    try:
        open_keys = sorted(OmegaConf.missing_keys(ours))
        if complete and open_keys:
            raise ConfigurationError(f"{open_keys[0]} has no value: set {open_keys[0]}=VALUE.")
        for key in open_keys:
            OmegaConf.update(ours, key, None)
        resolved = OmegaConf.to_container(ours, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    assert isinstance(resolved, dict)
    return {str(key): _with_home(value) for key, value in resolved.items()}


def _with_home(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _with_home(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_home(value) for value in node]
    return str(Path(node).expanduser()) if isinstance(node, str) and re.match(r"~(/|$)", node) else node


def as_hydra_takes(word: str, replace: Callable[[str], str] = str) -> str:
    """An override with `~` expanded where it is a path, and quoted where Hydra's grammar would refuse the plain text.

    A shell leaves `~` after `=` as it is, and takes away the quotes that the grammar needs around a space before `(`,
    another `=`, or a letter like ü. Words with signs of the grammar itself stay: lists, sweeps, functions, quotes.

    Args:
        replace: is called for the value, or for each value of a sweep, before it is quoted.
    """
    key, separator, value = word.partition("=")
    if not separator or word.startswith("-") or re.search(r"""[\[\]{}"'$\\]""", value):
        return word
    if "(" in value and _is_override(word):  # a function
        return word
    return f"{key}={','.join(_item_as_hydra_takes(key, replace(item)) for item in value.split(','))}"


def adding_keys(words: Sequence[str]) -> list[str]:
    """The overrides, with `++` before a key that no file of its group's choice lists, which Hydra would refuse.

    Whether there is such a key, `check` finds out by the class that the group calls.
    """
    folders, main = config_dirs(words), (CONFIG_DIR / f"{CONFIG_NAME}.yaml").read_text()
    chosen = dict(word.split("=", 1) for word in words if re.match(r"[\w/]+=", word))
    added = []
    for word in words:
        match = re.match(r"(\w+)\.([\w.]+)=", word)
        if match and (CONFIG_DIR / match[1]).is_dir():
            names = chosen[match[1]].strip("[]").split(",") if match[1] in chosen else choices_of(match[1], folders)
            texts = [main, *_texts(match[1], names, folders)]
            if not any(re.search(rf"^\s*{match[2].rpartition('.')[2]}:", text, re.MULTILINE) for text in texts):
                word = f"++{word}"
        added.append(word)
    return added


def _texts(group: str, names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The files of these choices of a group, and of the choices that they begin with."""
    paths = [folder / group / f"{name.strip()}.yaml" for name in names for folder in folders]
    texts = [path.read_text() for path in paths if path.is_file()]
    begun = [name for text in texts for name in re.findall(r"^ *- (\w+)$", text, re.MULTILINE)]
    return [*texts, *(_texts(group, begun, folders) if begun else [])]


def _item_as_hydra_takes(key: str, item: str) -> str:
    """One of the values of a sweep, or the only one."""
    if key.lstrip("+") in PATHS and re.match(r"~(/|$)", item):
        item = str(Path(item).expanduser())
    if "," not in item and _is_override(f"{key}={item}"):
        return item
    return quoted(item) if _is_override(f"{key}={quoted(item)}") else item


def _is_override(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


@functools.lru_cache(maxsize=256)
def _composed(sources: tuple[str, ...], config_name: str, overrides: tuple[str, ...]) -> DictConfig:
    """`sources` are the folders that Hydra searches: with the same ones, an application started anew finds the same."""
    return hydra.compose(config_name, list(overrides), return_hydra_config=True)


def recompose(hydra_config: DictConfig, choices: Mapping[str, str | None]) -> DictConfig:
    """Compose the application's configuration with other choices of groups and no overrides; not to be changed."""
    search_path = [word for word in hydra_config.overrides.hydra if word.startswith("hydra.searchpath=")]
    sources = tuple(source.full_path() for source in GlobalHydra.instance().config_loader().get_sources())
    compose = functools.partial(_composed, sources, hydra_config.job.config_name)
    usual = choices_made(compose(tuple(search_path)).hydra)
    wanted = {group: choice for group, choice in choices.items() if choice is not None}
    composed = compose((*search_path, *(f"{group}={c}" for group, c in wanted.items() if c != usual.get(group))))
    made = choices_made(composed.hydra)
    if any(made.get(group, choice) != choice for group, choice in wanted.items()):  # one brings others, as timm does
        composed = compose((*search_path, *(f"{group}={choice}" for group, choice in wanted.items())))
    return composed


def choices_made(hydra_config: DictConfig) -> dict[str, str | None]:
    """The choice of each group of conf/, Hydra's own groups left out."""
    return {group: choice for group, choice in hydra_config.runtime.choices.items() if not group.startswith("hydra/")}


def checked(root: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Resolve and check what Hydra composed.

    Returns:
        The resolved configuration, and what it would be without experiment and overrides.

    Raises:
        ConfigurationError: see `convnets.configuration.rules.check`.
    """
    choices = choices_made(root.hydra)
    if lacking := [key for key in ("name", "lr", "image_size", "_target_") if key not in root.get("model", {})]:
        raise ConfigurationError(f"conf/model/{choices['model']}.yaml lacks {', '.join(lacking)}.")
    for group in ("experiment", "sweep", "launcher"):
        if group in root:
            raise ConfigurationError(
                f"conf/{group}/{choices[group]}.yaml must begin with '# @package _global_' and set something."
            )
    choices.setdefault("logger", f"[{','.join(map(str, root.logger))}]")  # Hydra records no list; each names its item
    config = resolve(root)
    reference = resolve(recompose(root.hydra, {**choices, "experiment": None, "sweep": None}), complete=False)
    check(config, reference)
    _leave_out_defaults(config, reference)
    if not holds_out(config) and (sweeper := root.hydra.runtime.choices["hydra/sweeper"]) not in (
        "basic",
        "listed",
    ):
        raise ConfigurationError(
            f"hydra/sweeper={sweeper} chooses by val/accuracy, and with data.holdout=0 the test split would choose the "
            "hyperparameters: set data.holdout=5000, or another number of training images to choose on."
        )
    return config, reference


def _leave_out_defaults(config: dict[str, Any], reference: Mapping[str, Any]) -> None:
    """Remove keys that no file lists and that have their class's own default, so that they make no other run."""
    values = flatten(config)
    for key in values.keys() - flatten(reference).keys():
        if further_keys(key, values).get(key) == values[key] is not None:
            *parents, last = key.split(".")
            functools.reduce(lambda node, name: node[name], parents, config).pop(last)
