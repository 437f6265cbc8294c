"""The row that a run has in TensorBoard's HParams table, and the columns of that table."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from convnets.configuration.composition import GROUPS
from convnets.configuration.content import NOT_CONTENT, changing_callbacks, choices_of_run, flatten, is_part_of
from convnets.configuration.rules import RULES
from convnets.configuration.shell import CONFIG_DIR

FIRST_COLUMNS = ("init", "model", "model.lr", "optimizer", "seed")  # TensorBoard shows five hyperparameters at first
FOLLOW_OTHERS = ("data.seed", "optimizer.lr", "schedule.steps_argument")  # repeat another key, or follow from one
METRICS = (
    *(f"final/{stage}_{quantity}" for stage in ("train", "val", "test") for quantity in ("loss", "accuracy")),
    "final/train_seconds",
)
SAMPLES = (True, 1, "auto", "text", "reduce-overhead")  # a rule that allows a value allows its type


def write_hyperparameters(
    writer: SummaryWriter, step: int, config: Mapping[str, Any], result: Mapping[str, Any]
) -> None:
    """Write one row of the HParams table: the hyperparameters, and the final metrics.

    TensorBoard takes the table's columns from one run only, so each run lists those of all runs. The final metrics have
    tags of their own, because with a holdout they are not those of the last epoch.
    """
    final = {f"final/{name.replace('/', '_')}": value for name, value in result["metrics"].items()}
    final["final/train_seconds"] = result["train_seconds"]
    row = {key: value for key, value in hyperparameters(config).items() if value is not None}
    types = {**{key: _type(value) for key, value in row.items()}, **columns()}
    experiment, _, _ = hparams({key: types[key]() for key in sorted(types)}, dict.fromkeys([*METRICS, *final]))
    plugin_data = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin_data.content)
    for info in content.experiment.hparam_infos:
        info.differs = info.name in FIRST_COLUMNS  # TensorBoard puts these first, and sorts the others by name
    plugin_data.content = content.SerializeToString()
    row = {key: value if _type(value) is types[key] else str(value) for key, value in row.items()}
    _, start, end = hparams(row, final)
    for part in (experiment, start, end):
        writer.file_writer.add_summary(part, step)  # type: ignore[attr-defined]  # torch declares it as None
    for tag, value in final.items():
        writer.add_scalar(tag, value, step)


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The choices of groups, then the keys that decide the result: {"model": "vgg", "init": "xavier", "model.lr": 0.1}.

    Of a configuration without recorded choices, the model is the only choice.
    """
    choices = choices_of_run(config)
    config = {**config, "callbacks": changing_callbacks(config)}
    if not config["callbacks"]:
        choices.pop("callbacks", None)
        del config["callbacks"]
    found = {group: choices[group] for group in GROUPS if choices.get(group) is not None}
    plain = {key: str(value) if isinstance(value, (list, dict)) else value for key, value in flatten(config).items()}
    return {**found, **{key: value for key, value in plain.items() if _is_column(key)}}


@functools.cache
def columns(config_dir: Path = CONFIG_DIR) -> dict[str, type]:
    """Every hyperparameter that a run composed of the files in conf/ may have, and its type: bool, float or str.

    A key that takes values of several types, such as `compile`, is a str.
    """
    values: dict[str, set[Any]] = {}
    for path in config_dir.rglob("*.yaml"):
        text = path.read_text()
        package = re.match(r"#\s*@package\s+(\S+)", text)
        prefix = package[1] if package else ".".join(path.relative_to(config_dir).parts[:-1])
        for key, value in flatten(yaml.safe_load(text) or {}).items():
            whole = key if prefix in ("", "_global_") else f"{prefix}.{key}"
            values.setdefault(whole, set()).add(value if isinstance(value, (str, bool, int, float)) else str(value))
    keys = [key for key in values if _is_column(key) and values[key] != {str({})} and not key.startswith("callbacks.")]
    types = {key: _types(key, values) for key in keys}
    return {**dict.fromkeys(GROUPS, str), **{key: next(iter(t)) if len(t) == 1 else str for key, t in types.items()}}


def _types(key: str, values: Mapping[str, set[Any]]) -> set[type]:
    """The types of the values that conf/ gives a key, directly or by interpolation, and that its rule allows."""
    types = {_type(sample) for sample in SAMPLES if key in RULES and RULES[key].allows(sample)}
    for value in values.get(key, ()):
        if isinstance(value, str) and "${" in value:
            if reference := re.fullmatch(r"\$\{([\w.]+)\}", value):
                types |= _types(reference[1], values)
        elif value not in ("None", "???"):
            types.add(_type(value))
    return types


def _type(value: Any) -> type:
    return bool if isinstance(value, bool) else float if isinstance(value, (int, float)) else str


def _is_column(key: str) -> bool:
    words = key.split(".")
    not_ours = words[0] in ("hydra", "defaults") or {"_target_", "_partial_", "defaults"} & {*words}
    return not not_ours and not is_part_of(key, (*NOT_CONTENT, *FOLLOW_OTHERS))
