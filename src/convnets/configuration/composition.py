"""What a configuration may hold, what is wrong with one, and what its run is called. Knows no torch.

The keys of a configuration are those of the files in conf/ that it is composed of; `RULES` adds types and ranges.
"""

import argparse
import difflib
import errno
import functools
import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from convnets.atomic import file_digest
from convnets.configuration.content import (
    COMPUTATION,
    NOT_RECIPE,
    changing_callbacks,
    content_hash,
    differences,
    flatten,
)
from convnets.configuration.shell import CONFIG_DIR, installation, nearest_name, quoted, script
from convnets.files import RunFolderError
from convnets.runs.finding import find_run

USERS_WISH = "CONVNETS_TRACEBACKS"  # HYDRA_FULL_ERROR as the user set it: `main` sets it for itself


class ConfigurationError(ValueError):
    """A configuration is wrong; the text names the key, the value and the way out."""


@dataclass(frozen=True)
class Rule:
    """The values that a key may have."""

    wording: str
    allows: Callable[[Any], bool]
    example: str = ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(lowest: int, highest: int | None = None) -> Rule:
    """Whole numbers between the two, both included."""
    wording = (
        f"a whole number of at least {lowest}" if highest is None else f"a whole number from {lowest} to {highest}"
    )
    return Rule(wording, lambda v: _is_whole(v) and lowest <= v and (highest is None or v <= highest))


def optional(rule: Rule) -> Rule:
    """What the rule allows, or null."""
    return Rule(f"{rule.wording}, or null", lambda v: v is None or rule.allows(v))


def one_of(*choices: str) -> Rule:
    """One of the words."""
    return Rule(f"one of {', '.join(choices)}", lambda v: v in choices)


POSITIVE = Rule("a number above 0", lambda v: _is_number(v) and v > 0)
NOT_NEGATIVE = Rule("a number of at least 0", lambda v: _is_number(v) and v >= 0)
PROBABILITY = Rule("a number from 0 to below 1", lambda v: _is_number(v) and 0 <= v < 1)
FLAG = Rule("true or false", lambda v: isinstance(v, bool))
TEXT = Rule("a text", lambda v: isinstance(v, str) and v != "")
PATH = Rule("a path", TEXT.allows)
FOLDER_NAME = Rule(
    "1 to 100 letters from A to Z, digits, dots, dashes and underscores, the first no dot (in two pairs of quotes, "
    "'\"1.5\"', what would be a number or true)",
    lambda v: re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,100}", str(v)) is not None and (isinstance(v, str) or _is_whole(v)),
)
BATCH_LIMIT = Rule(
    "a whole number of batches of at least 1, or a share of them above 0.0 and up to 1.0",
    lambda v: (_is_whole(v) and v >= 1) or (isinstance(v, float) and 0 < v <= 1),
)
DEVICES = Rule("auto, or a whole number of at least 1", lambda v: v == "auto" or (_is_whole(v) and v >= 1))
CHANNEL_BLOCKS = Rule(
    "a list of [convolutions, channels], each at least 1, such as [[1,16],[2,32]]",
    lambda v: (
        isinstance(v, list)
        and len(v) > 0
        and all(isinstance(b, list) and len(b) == 2 and all(_is_whole(n) and n >= 1 for n in b) for b in v)
    ),
)
BAND = Rule(
    "[lowest, highest] accuracy, both from 0 to 1",
    lambda v: isinstance(v, list) and len(v) == 2 and all(map(_is_number, v)) and 0 <= v[0] <= v[1] <= 1,
)

CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")
COMPILE_MODES = (*CUDA_GRAPH_MODES, "max-autotune-no-cudagraphs")

RULES: Mapping[str, Rule] = {
    "seed": whole(0, 2**32 - 1),
    "run_name": optional(FOLDER_NAME),
    "sweep_name": optional(FOLDER_NAME),
    "ignore_code_changes": FLAG,
    "channels_last": FLAG,
    "compile": Rule(
        f"true, false, or a mode of torch.compile: {', '.join(COMPILE_MODES)}",
        lambda v: isinstance(v, bool) or v in COMPILE_MODES,
    ),
    "steps_per_execution": whole(1),
    "checkpoint.every_seconds": POSITIVE,
    "checkpoint.keep": FLAG,
    "init.from_run": optional(PATH),
    "expected": optional(BAND),
    "model.lr": POSITIVE,
    "model.image_size": whole(1, 2048),
    "model.activation": one_of("sigmoid", "tanh", "relu"),
    "model.padding_mode": one_of("zeros", "reflect", "replicate", "circular"),
    "model.blocks": CHANNEL_BLOCKS,
    "model.dropout": PROBABILITY,
    "model.num_groups": optional(whole(1)),
    "model.group_width": optional(whole(1)),
    "model.bottleneck_ratio": POSITIVE,
    "data.dir": PATH,
    "data.resize": whole(1, 2048),
    "data.batch_size": whole(1),
    "data.holdout": whole(0),
    "data.device": one_of("auto", "cpu"),
    "data.split_seed": whole(0, 2**32 - 1),
    "data.augment": one_of("none", "shift_flip"),
    "optimizer.lr": POSITIVE,
    "optimizer.momentum": PROBABILITY,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.fused": optional(FLAG),
    "schedule.max_lr": POSITIVE,
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": DEVICES,
    "trainer.num_nodes": whole(1),
    "trainer.strategy": one_of("auto", "ddp", "ddp_find_unused_parameters_true"),
    "trainer.precision": one_of("32-true", "bf16-mixed", "16-mixed"),
    "trainer.matmul_precision": one_of("highest", "high", "medium"),
    "trainer.max_epochs": whole(1),
    "trainer.limit_train_batches": optional(BATCH_LIMIT),
    "trainer.limit_val_batches": optional(BATCH_LIMIT),
    "trainer.limit_test_batches": optional(BATCH_LIMIT),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.gradient_clip_val": optional(POSITIVE),
    "trainer.deterministic": FLAG,
    "trainer.sync_batchnorm": FLAG,
    "callbacks.dashboard.every": optional(whole(1)),
}

PATHS = (
    *(key for key, rule in RULES.items() if rule.wording.startswith(PATH.wording)),
    "hydra.run.dir",
    "hydra.sweep.dir",
)

RUNS_DIR = Path("outputs/runs")  # as in conf/train.yaml
EXTRAS = {"hydra/launcher/ray": "ray", "hydra/launcher/submitit_slurm": "slurm"}  # what installs them
GROUPS = ("model", "data", "optimizer", "schedule", "init", "callbacks")  # of conf/, whose choice names a run
GROUPS_NAMED_IN_FOLDERS = ("data", "optimizer", "schedule", "init", "trainer")
CANNOT_WRITE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT)
SWITCHES = ("callbacks.", "logger.")  # their items may be switched off with false or null


def check_targets(config: Any, trusted: Sequence[str], source: str) -> None:
    """Refuse a configuration that comes from a run's folder, where it would call what conf/ does not.

    Only the very names in conf/ are allowed: harmless-looking functions of any installed package can run planted code.

    Raises:
        ConfigurationError: a target is neither in conf/ nor trusted.
    """
    allowed = [*shipped_targets(), *trusted, None]
    for key, value in _nodes(config):
        if key.rpartition(".")[2] == "_target_" and value not in allowed:
            raise ConfigurationError(
                f"{source} calls {value!r} ({key}), which no file in {CONFIG_DIR} does, so nothing was called. If you "
                f"know who wrote it: --trust {value}"
            )
        if isinstance(value, str) and "${" in value:  # which may make a mapping with a target, in a list too
            raise ConfigurationError(f"{source} is not resolved: {key}={value}. A run's own configuration is.")


def _nodes(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All that is in nested mappings and lists, they themselves included, with dotted keys."""
    yield key, node
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from _nodes(child, f"{key}.{name}" if key else str(name))


@functools.cache
def shipped_targets() -> frozenset[str]:
    """Every `_target_` in conf/ that a run's configuration may hold."""
    files = [yaml.safe_load(path.read_text()) for path in CONFIG_DIR.rglob("*.yaml")]
    items = [item for file in files for item in _nodes(file or {})]
    targets = [value for key, value in items if key.endswith("_target_") and not key.startswith("hydra.")]
    return frozenset(target for target in targets if target is not None)


def check(config: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
    """Compare a resolved configuration with the shipped files it is composed of, and with `RULES`.

    Args:
        reference: the same choices of groups, without any experiment or override.

    Raises:
        ConfigurationError: a key that is unknown or missing, a value of a wrong type or out of range.
    """
    known, values = flatten(reference), flatten(config)
    for key, value in values.items():
        if key.startswith(SWITCHES) and (value is None or value is False) and key.count(".") == 1:
            continue
        if key not in known:
            if any(other.startswith(f"{key}.") for other in known):
                raise ConfigurationError(f"{key} holds several keys, got {value!r}: set one of them.")
            raise ConfigurationError(unknown_key(key, known))
        if key in RULES:
            if not RULES[key].allows(value):
                raise ConfigurationError(f"{key} must be {RULES[key].wording}, got {value!r}.")
        elif not _same_type(value, known[key]):
            raise ConfigurationError(f"{key} must be {_type_name(known[key])} such as {known[key]!r}, got {value!r}.")
    for key in known:
        parent = ".".join(key.split(".")[:2])
        if key not in values and not (parent in values and parent.startswith(SWITCHES)):
            raise ConfigurationError(f"{key} has no value: do not remove it, set {key}=VALUE.")


def _same_type(value: Any, default: Any) -> bool:
    if default is None:
        return True
    if isinstance(default, float):
        return _is_number(value)
    return isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)


def _type_name(value: Any) -> str:
    names = {bool: "true or false,", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "several keys")


def choices_of(group: str, config_dirs: Sequence[Path]) -> list[str]:
    """What a group can be set to, by the files in these folders."""
    paths = [(path, config_dir / group) for config_dir in config_dirs for path in (config_dir / group).rglob("*.yaml")]
    return sorted({str(path.relative_to(folder).with_suffix("")) for path, folder in paths})


def _config_dirs(config_dir: Path, words: Sequence[str]) -> list[Path]:
    """The folder, and the user's own on the command line: --config-dir, or its hydra.searchpath=[file://...]."""
    given = get_args_parser().parse_known_args(list(words))[0].config_dir
    searched = re.findall(
        r"file://([^\],\"]+)", " ".join(word for word in words if word.startswith("hydra.searchpath="))
    )
    return [config_dir, *map(Path, searched), *([Path(given)] if given else [])]


def unknown_key(key: str, known: Mapping[str, Any]) -> str:
    """Say that a key does not exist, and which one may be meant."""
    candidates = {*known, *(name.rsplit(".", 1)[0] for name in known)}
    section, _, last = key.rpartition(".")

    def likeness(candidate: str) -> float:
        last_of_candidate = candidate.rsplit(".", 1)[-1]
        if len(last) > 3 and last in last_of_candidate:  # epochs -> trainer.max_epochs
            return 0.95
        ratios = [difflib.SequenceMatcher(a=a, b=b).ratio() for a, b in ((key, candidate), (last, last_of_candidate))]
        return sum(ratios) / 2

    nearest = max(sorted(candidates), key=likeness)
    hint = f" Did you mean {nearest}?" if likeness(nearest) > 0.6 else ""
    siblings = [
        name.rsplit(".", 1)[1] for name in known if section and name.rpartition(".")[0] == section and "._" not in name
    ]
    if siblings and not hint:
        hint = f" Keys of {section}: {', '.join(siblings)}."
    part = "hydra" if key.startswith("hydra.") else "job"
    return f"There is no key {key}.{hint} (--cfg {part} prints every key.)"


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


def as_hydra_takes(word: str) -> str:
    """An override with `~` expanded where it is a path, and quoted where Hydra's grammar would refuse the plain text.

    A shell leaves `~` after `=` as it is, and takes away the quotes that the grammar needs around a space before `(`,
    another `=`, or a letter like ü. Words with signs of the grammar itself stay: lists, sweeps, functions, quotes.
    """
    key, separator, value = word.partition("=")
    if not separator or word.startswith("-") or re.search(r"""[\[\]{}"'$\\]""", value):
        return word
    if "(" in value and _is_override(word):  # a function
        return word
    return f"{key}={','.join(_item_as_hydra_takes(key, item) for item in value.split(','))}"


def _item_as_hydra_takes(key: str, item: str) -> str:
    """One of the values of a sweep, or the only one."""
    if key.lstrip("+") in PATHS and re.match(r"~(/|$)", item):
        item = str(Path(item).expanduser())
    if key == "init.from_run" and item not in ("", "null"):
        with suppress(RunFolderError):  # which `prepare` says with the key
            item = str(find_run(item).absolute())  # here, for `latest` is another run once this one has begun
    if "," not in item and _is_override(f"{key}={item}"):
        return item
    return quoted(item) if _is_override(f"{key}={quoted(item)}") else item


def _is_override(word: str) -> bool:
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


@functools.lru_cache(maxsize=64)
def _load(search_path: str, config_name: str, overrides: tuple[str, ...]) -> DictConfig:
    loader = GlobalHydra.instance().config_loader()
    return loader.load_configuration(config_name, list(overrides), run_mode=RunMode.RUN)


def _compose(hydra_config: DictConfig, choices: Mapping[str, str | None]) -> DictConfig:
    """Compose the application's configuration with other choices of groups and no overrides; not to be changed."""
    search_path = [word for word in hydra_config.overrides.hydra if word.startswith("hydra.searchpath=")]
    found_in = str(GlobalHydra.instance().config_loader().get_search_path())
    load = functools.partial(_load, found_in, hydra_config.job.config_name)
    usual = _choices(load(tuple(search_path)).hydra)
    words = [f"{group}={choice}" for group, choice in choices.items() if choice not in (None, usual.get(group))]
    return load((*search_path, *words))


def _choices(hydra_config: DictConfig) -> dict[str, str | None]:
    return {group: choice for group, choice in hydra_config.runtime.choices.items() if not group.startswith("hydra/")}


def prepare(root: DictConfig) -> tuple[dict[str, Any], str]:
    """Check the composed configuration: the resolved one that a run is trained by and keeps, and the run's name.

    Added are what the run is to remember: the choices of groups, the keys that were set otherwise than these have them,
    the number of the code's computation, and the checksum of the weights that it starts from. The name says what
    differs from the defaults, and ends in a short hash of the content.

    Raises:
        ConfigurationError: see `check`.
    """
    choices = _choices(root.hydra)
    if lacking := [key for key in ("name", "lr", "image_size", "_target_") if key not in root.get("model", {})]:
        raise ConfigurationError(f"conf/model/{choices['model']}.yaml lacks {', '.join(lacking)}.")
    for group in ("experiment", "sweep", "launcher"):
        if group in root:
            raise ConfigurationError(
                f"conf/{group}/{choices[group]}.yaml must begin with '# @package _global_' and set something."
            )
    config = resolve(root)
    reference = resolve(_compose(root.hydra, {**choices, "experiment": None, "sweep": None}), complete=False)
    check(config, reference)
    if config["data"]["holdout"] == 0 and (sweeper := root.hydra.runtime.choices["hydra/sweeper"]) != "basic":
        raise ConfigurationError(
            f"hydra/sweeper={sweeper} chooses by val/accuracy, and with data.holdout=0 the test split would choose the "
            "hyperparameters: set data.holdout=5000, or another number of training images to choose on."
        )
    if (source := config["init"].get("from_run")) is not None:
        config["init"].update(_weights_to_start_from(source))
    config["choices"] = choices
    chosen = resolve(_compose(root.hydra, {group: choices[group] for group in GROUPS}), complete=False)
    config["changes"] = sorted(differences(config, chosen))
    config["computation"] = COMPUTATION
    return config, str(config["run_name"]) if config["run_name"] is not None else _name(root, config, reference)


def _name(root: DictConfig, config: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    usual, choices = _choices(_compose(root.hydra, {}).hydra), config["choices"]
    groups = [*GROUPS_NAMED_IN_FOLDERS, *(["callbacks"] if changing_callbacks(config) else [])]
    words = [config["model"]["name"], *(str(choices[g]) for g in groups if choices.get(g) != usual.get(g))]
    raw = flatten(OmegaConf.to_container(root))
    words += [
        f"{key.rsplit('.', 1)[-1]}{ours}"
        for key, (ours, _) in differences(config, reference).items()
        if not str(raw.get(key)).startswith("${")  # follows another key, which is named
    ]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(dict.fromkeys(words)))[:90].strip("_-.")
    return f"{readable}-{content_hash(config)}"


def folder_name(root: DictConfig) -> str:
    """The name of the composed configuration's run; see `prepare`."""
    return prepare(root)[1]


def _weights_to_start_from(run: str) -> dict[str, str]:
    """The other run's folder and the checksum of its weights, as keys of `init`."""
    try:
        folder = find_run(run).absolute()
    except RunFolderError as error:
        raise ConfigurationError(f"init.from_run={run}: {error}") from None
    path = folder / "weights.safetensors"
    try:
        digest = file_digest(path)
    except OSError:
        raise ConfigurationError(
            f"init.from_run={run} has no {path.name}: give the folder of a finished run."
        ) from None
    return {"from_run": str(folder), "weights": digest}


def _run_folder(*, _root_: DictConfig) -> str:
    """The name of a run's folder: an existing one's with the same content, however that was written, or a new one."""
    config, name = prepare(_root_)
    in_sweep = not OmegaConf.is_missing(_root_.hydra.job, "num")
    parent = Path(_root_.hydra.sweep.dir) if in_sweep else RUNS_DIR
    if config["run_name"] is None:
        name = next((path.name for path in sorted(parent.glob(f"*-{name.rpartition('-')[2]}"))), name)
    return name


OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
OmegaConf.register_new_resolver("script", script, replace=True)
OmegaConf.register_new_resolver(
    "choices", lambda group: ", ".join(choices_of(group, _config_dirs(CONFIG_DIR, sys.argv[1:]))), replace=True
)
OmegaConf.register_new_resolver("several", lambda devices: devices != 1, replace=True)


def expected_band(config: Mapping[str, Any], hydra_config: DictConfig) -> list[float] | None:
    """The published accuracy of this very recipe, whatever its seed and device: the chosen experiment's, or the book's.

    None where the configuration differs from the experiment in anything else, so that nothing is compared with a
    result of another recipe.
    """
    experiment = _choices(hydra_config).get("experiment") or f"book/{config['model']['name']}"
    try:
        published = resolve(_compose(hydra_config, {"experiment": experiment}), complete=False)
    except MissingConfigException:
        return None
    return published["expected"] if set(differences(config, published)) <= NOT_RECIPE else None


def compose(config_dir: Path, config_name: str, overrides: Sequence[str]) -> tuple[DictConfig, str]:
    """Compose and check outside of a Hydra application: the resolved configuration, and the name of its run's folder.

    Raises:
        ConfigurationError: see `check`.
    """
    with hydra.initialize_config_dir(str(config_dir), version_base="1.3"):
        root = hydra.compose(config_name, [as_hydra_takes(word) for word in overrides], return_hydra_config=True)
        config, name = prepare(root)
        config["expected"] = expected_band(config, root.hydra)
    return OmegaConf.create(config), name


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """Give a command Hydra's option for a folder of a user's own choices, as overrides that do so (none or one)."""
    parser.add_argument(
        "--config-dir",
        type=_search_path,
        default=[],
        metavar="FOLDER",
        help="with choices of your own, laid out as conf/ is",
    )


def _search_path(folder: str) -> list[str]:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {folder}")
    return [f"hydra.searchpath=[{quoted(f'file://{path.absolute()}')}]"]


def wants_traceback() -> bool:
    """Whether the user asks for tracebacks: HYDRA_FULL_ERROR=1."""
    asked = os.environ.get(USERS_WISH, os.environ.get("HYDRA_FULL_ERROR", "0"))
    return asked not in ("", "0")


@contextmanager
def errors_explained(
    config_dir: Path, config_name: str, overrides: Sequence[str], with_traceback: bool
) -> Iterator[None]:
    """End the program with one message, where a class of ours or Hydra's explains the error.

    Another error shows its traceback in any case.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        sys.exit("The current directory was deleted: change to another.")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # what reads our output, such as head, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails once more at its end
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        message = None if with_traceback else explain(error, config_dir, config_name, overrides)
        if message is None:
            raise
        print(message, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def main(config_dir: Path, config_name: str) -> Callable[[Callable[[DictConfig, Path], Any]], Callable[[], Any]]:
    """Decorate a task(config, run_dir) as a Hydra application whose errors are explained."""

    def decorate(task: Callable[[DictConfig, Path], Any]) -> Callable[[], Any]:
        explained = functools.partial(errors_explained, config_dir, config_name, sys.argv[1:], wants_traceback())

        @functools.wraps(task)
        def checked(config: DictConfig) -> Any:
            hydra_config: Any = HydraConfig.get()
            # Here too, or Hydra adds a line of its own; but a sweep's jobs in one process must not end it.
            with nullcontext() if _within_a_sweep(hydra_config) else explained():
                root = config.copy()
                OmegaConf.set_struct(root, False)
                root.hydra = hydra_config
                resolved, _ = prepare(root)
                _refuse_processes_in_a_sweep(resolved, hydra_config)
                resolved["expected"] = expected_band(resolved, hydra_config)
                return task(OmegaConf.create(resolved), Path(hydra_config.runtime.output_dir))

        def run() -> Any:
            with explained():
                os.environ[USERS_WISH] = "1" if wants_traceback() else "0"  # for the processes started from here
                sys.argv[1:] = map(as_hydra_takes, sys.argv[1:])
                os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints the error and exits by itself
                return hydra.main(version_base="1.3", config_path=str(config_dir), config_name=config_name)(checked)()

        return run

    return decorate


def _within_a_sweep(hydra_config: DictConfig) -> bool:
    """Whether the launcher of a sweep called the task, and not a command of its own."""
    return not OmegaConf.is_missing(hydra_config.job, "num")


def _refuse_processes_in_a_sweep(config: Mapping[str, Any], hydra_config: DictConfig) -> None:
    """A training in several processes starts the program's command again: in a sweep that is not one job's, but all."""
    trainer = config["trainer"]
    within = _within_a_sweep(hydra_config)
    if within and "SLURM_NTASKS" not in os.environ and (trainer["devices"] != 1 or trainer["strategy"] != "auto"):
        raise ConfigurationError(
            f"trainer.devices={trainer['devices']} with trainer.strategy={trainer['strategy']} starts processes that "
            "would train other jobs of this sweep, whose launcher runs them within a process: set launcher=gpu_pool."
        )


def explain(error: BaseException, config_dir: Path, config_name: str, overrides: Sequence[str]) -> str | None:
    """One message for what a user did; None for what only a traceback explains."""
    if type(error).__module__ == "ray.exceptions":
        if not isinstance(cause_there := getattr(error, "cause", None), BaseException):
            return f"{type(error).__name__}: {error}"
        error = cause_there
    cause: BaseException | None = error
    while cause is not None:  # resolvers and Hydra wrap what they meet
        if type(cause).__module__.startswith(("convnets.", "hydra_plugins.")):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, MissingConfigException) and (extra := EXTRAS.get(error.missing_cfg_file or "")):
        return f"launcher={extra} needs the extra `{extra}`: {installation(extra)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.partition("/")
        choices = choices_of(group, _config_dirs(config_dir, overrides))
        nearest = nearest_name(choice, choices)
        hint = f" Did you mean {group}={nearest}?" if nearest else ""
        return f"There is no {group}={choice}.{hint} Choices: {', '.join(choices)}."
    if isinstance(error, ValueError) and str(error).startswith("Config group override"):  # of Hydra, for model=5
        groups = [word for word in overrides if (config_dir / word.partition("=")[0]).is_dir()]
        return f"{' '.join(groups)}: a group takes the name of one of its choices, which --help lists."
    if isinstance(error, OSError) and error.errno in CANNOT_WRITE and error.filename:
        return f"{error.filename} cannot be written: {error.strerror}. Start from a folder that can be."
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}."
    if isinstance(error, ConfigCompositionException):
        unknown = error.__cause__
        if isinstance(unknown, (ConfigKeyError, ConfigAttributeError)) and unknown.full_key:
            return unknown_key(unknown.full_key, _known_keys(unknown.full_key, config_dir, config_name, overrides))
        if match := re.search(r"Could not override '([^']+)'", str(error)):
            where = f"{match_file[0]}: " if (match_file := re.match(r"In '[^']+'", str(error))) else ""
            return where + unknown_key(match[1], _known_keys(match[1], config_dir, config_name, overrides))
    if isinstance(error, OverrideParseException):
        return _refused_override(str(error.override))
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return str(error.__cause__)  # Hydra's own text repeats it
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        reasons = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
        return "\n".join(reasons)
    return None


def _refused_override(word: str) -> str:
    key, separator, value = word.partition("=")
    if separator and re.fullmatch(r"\+{0,2}[A-Za-z_][A-Za-z0-9_./@:-]*", key):
        return (
            f"The value in {word} cannot be read: its brackets and quotes must be balanced. If it is a text, write "
            f"{shlex.quote(f'{key}={quoted(value)}')}"
        )
    return f"{word!r} is no override: write KEY=VALUE or GROUP=CHOICE, without spaces around the sign."


def _known_keys(key: str, config_dir: Path, config_name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Every key under the choices of groups on the command line: Hydra's for one of Hydra's, else ours."""
    of_hydra = key.startswith("hydra.")
    words = [word for word in overrides if re.fullmatch(r"[\w/]+=[\w/]+", word)]
    config_dirs = _config_dirs(config_dir, overrides)
    choices = [word for word in words if word.partition("=")[2] in choices_of(word.partition("=")[0], config_dirs)]
    further = [quoted(f"file://{folder.expanduser().absolute()}") for folder in config_dirs[1:]]
    choices += [f"hydra.searchpath=[{','.join(further)}]"] if further else []
    with hydra.initialize_config_dir(str(config_dir), version_base="1.3"):
        try:
            composed = hydra.compose(config_name, choices, return_hydra_config=of_hydra)
        except HydraException:  # the mistake is in a chosen file
            composed = hydra.compose(config_name, return_hydra_config=of_hydra)
    keys = OmegaConf.to_container(composed)
    assert isinstance(keys, dict)
    if of_hydra:
        return flatten({"hydra": keys["hydra"]})
    return {**flatten(keys), **{path.name: None for path in config_dir.iterdir() if path.is_dir()}}
