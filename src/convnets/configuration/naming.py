"""What a sweep is called, and how long its jobs take. Knows Hydra, not torch."""

import functools
import hashlib
import json
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from convnets.configuration.composition import ConfigurationError, prepare, resolve
from convnets.configuration.content import content, content_hash, differences, is_part_of
from convnets.configuration.shell import script, typed
from convnets.runs.sources import check_code

# Overrides that change no result, and so not a sweep's name.
NOT_IN_NAMES = ("sweep_name", "ignore_code_changes", "callbacks", "logger", "launcher", "checkpoint", "data.dir")
# Content that does not change how long a run takes, or hardly.
NOT_IN_DURATION = ("seed", "data.seed", "data.split_seed", "data.holdout", "model.lr", "optimizer", "schedule", "init")


def sweep_folder(name: str | None, task_overrides: Sequence[str], sweeper: Mapping[str, Any]) -> str:
    """The name, or one from the sweep's overrides and parameters: so that the same command finds its own work.

    Raises:
        ConfigurationError: several recorded sweeps are asked for, which would be swept over as if they were values.
    """
    if several := [word for word in task_overrides if re.match(r"sweep=.*,", str(word))]:
        raise ConfigurationError(f"{several[0]}: one recorded sweep at a time.")
    if name is not None:
        return str(name)
    overrides = {str(word) for word in task_overrides}
    words = sorted(word for word in overrides if not is_part_of(word.lstrip("+~").partition("=")[0], NOT_IN_NAMES))
    searched = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    readable = re.sub(r"[^A-Za-z0-9.]+", "_", "-".join(words))[:70].strip("_.")
    return f"{readable}-{hashlib.sha256(json.dumps([words, searched]).encode()).hexdigest()[:8]}".lstrip("-")


def known_seconds(root: DictConfig) -> float | None:
    """The median duration of the finished runs in outputs/ that take as long as this one; None where there is none."""
    wanted = _what_takes_time(resolve(root))
    seconds = [seconds for content, seconds in _finished_runs() if content == wanted]
    return statistics.median(seconds) if seconds else None


def _what_takes_time(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content(config).items() if not is_part_of(key, NOT_IN_DURATION)}


@functools.cache
def _finished_runs() -> list[tuple[dict[str, Any], float]]:
    found = []
    for pattern in ("runs/*/result.json", "sweeps/*/*/result.json"):
        for path in Path("outputs").glob(pattern):
            try:
                config = yaml.load((path.parent / "config.yaml").read_text(), yaml.CSafeLoader)
                found.append((_what_takes_time(config), float(json.loads(path.read_text())["seconds"])))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
                continue  # an estimate can do without a damaged folder
    return found


def finished_file(root: DictConfig) -> str | None:
    """The file that says that a job was done before; None where its folder holds a run of another configuration.

    Asked for a job, refuse a run of other code than there is now.

    Raises:
        RunFolderError: see `check_code`.
    """
    if not OmegaConf.is_missing(root.hydra.job, "num"):
        folder = Path(root.hydra.sweep.dir) / root.hydra.sweep.subdir
        if (folder / "result.json").exists():
            config, _ = prepare(root)
            if differences(yaml.load((folder / "config.yaml").read_text(), yaml.CSafeLoader), config):
                return None
            check_code(folder, config)
    return "result.json"


def run_content(root: DictConfig) -> str | None:
    """What is the same for jobs that train the same thing; None where it is no job's configuration."""
    return None if OmegaConf.is_missing(root.hydra.job, "num") else content_hash(prepare(root)[0])


def report_command(sweep_dir: str) -> str:
    """What ranks a sweep's runs."""
    return script("report", typed(Path(sweep_dir)))


# Cached, so that the jobs of a sweep inherit the name that its own overrides gave.
OmegaConf.register_new_resolver("sweep_folder", sweep_folder, use_cache=True, replace=True)
OmegaConf.register_new_resolver("run_content", lambda *, _root_: run_content(_root_), replace=True)
OmegaConf.register_new_resolver("finished_file", lambda *, _root_: finished_file(_root_), replace=True)
OmegaConf.register_new_resolver("report_command", report_command, replace=True)
OmegaConf.register_new_resolver("known_seconds", lambda *, _root_: known_seconds(_root_), replace=True)


def gpus_of_a_job(accelerator: str, cluster: str | None) -> int | None:
    """How many GPUs a job asks a cluster for: one; none if it computes on the CPU, or no GPU is in this machine.

    Args:
        cluster: an address, if the jobs run elsewhere.
    """
    from hydra_plugins.gpu_pool_launcher._slots import find_gpus

    return 1 if accelerator != "cpu" and (cluster is not None or find_gpus(os.environ)) else None


OmegaConf.register_new_resolver("gpus_of_a_job", gpus_of_a_job, replace=True)
