"""What a run and a sweep are called."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from convnets.configuration.composition import GROUPS, choices_made, recompose
from convnets.configuration.content import changing_callbacks, content_hash, differences, flatten, is_part_of
from convnets.configuration.rules import ConfigurationError

GROUPS_NAMED = (*GROUPS[1:-1], "trainer")  # in a run's name, beside the model
# Overrides that change no result, and so not a sweep's name.
NOT_IN_NAMES = ("sweep_name", "ignore_code_changes", "callbacks", "logger", "launcher", "checkpoint", "data.cache_dir")


def run_name(root: DictConfig, config: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    """The user's name of the run; else what differs from the defaults in words, and a short hash of the content.

    Args:
        root: as Hydra composed it, in which values that follow another key still say so.
        config: the same, resolved and checked.
        reference: what it would be without experiment and overrides.
    """
    if config["run_name"] is not None:
        return str(config["run_name"])
    usual, choices = choices_made(recompose(root.hydra, {}).hydra), config["choices"]
    groups = [*GROUPS_NAMED, *(["callbacks"] if changing_callbacks(config) else [])]
    words = [config["model"]["name"], *(str(choices[g]) for g in groups if choices.get(g) != usual.get(g))]
    raw = flatten(OmegaConf.to_container(root))
    words += [
        f"{key.rsplit('.', 1)[-1]}{ours}"
        for key, (ours, _) in differences(config, reference).items()
        if not str(raw.get(key)).startswith("${")  # follows another key, which is named
        and not (key == "model.arch" and ours == config["model"]["name"])
    ]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(dict.fromkeys(words)))[:90].strip("_-.")
    return f"{readable}-{content_hash(config)}"


def sweep_name(name: str | None, task_overrides: Sequence[str], sweeper: Mapping[str, Any]) -> str:
    """The name, or one from the sweep's overrides and parameters: so that the same command finds its own work.

    Raises:
        ConfigurationError: several recorded sweeps are asked for, which would be swept over as if they were values.
    """
    if several := [word for word in task_overrides if re.match(r"sweep=.*,", str(word))]:
        raise ConfigurationError(f"{several[0]}: one recorded sweep at a time.")
    if name is not None:
        return str(name)
    overrides = {str(word).lstrip("+") for word in task_overrides}
    # The folder of the usual set decides nothing; that of another may.
    left_out = NOT_IN_NAMES if any(word.startswith("data=") for word in overrides) else (*NOT_IN_NAMES, "data.dir")
    words = sorted(word for word in overrides if not is_part_of(word.lstrip("~").partition("=")[0], left_out))
    searched = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    searched += [f"{key}={sweeper[key]}" for key in ("together", "listed") if key in sweeper if sweeper[key]]
    if (sweeper.get("halving") or {}).get("num_epochs"):
        searched.append(f"halving={sweeper['halving']}")
    readable = re.sub(r"[^A-Za-z0-9.]+", "_", "-".join(words))[:70].strip("_.")
    return f"{readable}-{hashlib.sha256(json.dumps([words, searched]).encode()).hexdigest()[:8]}".lstrip("-")
