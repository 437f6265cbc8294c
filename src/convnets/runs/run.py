"""A run: a folder that describes one training. Knows no torch, so that a thousand runs are listed in seconds."""

import copy
import functools
import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Self

import yaml
from omegaconf import DictConfig, OmegaConf

from convnets.configuration.composition import GROUPS
from convnets.configuration.content import (
    MOVED,
    NOT_RECIPE,
    changing_callbacks,
    choices_of_run,
    content,
    differences,
    flatten,
)
from convnets.configuration.shell import script
from convnets.configuration.targets import check_targets, shipped_targets
from convnets.files import RunFolderError, now, read_json, read_table, removal, shown, typed, write_atomically
from convnets.runs import images
from convnets.runs.lock import is_held, locked
from convnets.runs.sources import RECORD, check_code, record_code

FINISHED_FILES = ("config.yaml", "result.json", "metrics.csv", "weights.safetensors")
# What a run leaves in its folder beside the lock: if any of it is there, the folder is occupied.
STARTED_FILES = ("config.yaml", "status.json", "result.json", "metrics.csv", "checkpoints", "weights.safetensors")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's takes a seventh of the time


class Run:
    """A folder that describes one training: see the README for its files.

    Args:
        trust: names of classes that its configuration may call beside those in conf/.
        once: read each file once, as suits a list of many runs, and not each time that it is asked for.
    """

    damage = ""  # why the folder cannot be read; see `read_run`

    def __init__(self, path: Path, trust: Sequence[str] = (), once: bool = False) -> None:
        self.path = path
        self.trust = trust
        self._kept: dict[str, dict[str, Any]] | None = {} if once else None

    def __str__(self) -> str:
        return shown(self.path)

    def __repr__(self) -> str:
        """What the run is and how far it has come, whatever its folder holds."""
        read = read_run(self.path)
        if not read.settings:
            return f"{type(self).__name__} {self}: {read.error or read.state}"
        epochs = f"{read.epoch} of {read.setting('trainer.max_epochs')} epochs"
        parts = [f"{read.setting('model')} on {read.setting('data')}", read.state, epochs]
        if (accuracy := read.latest("val/accuracy")) is not None:
            parts.append(f"val/accuracy {accuracy:.4f}")
        return f"{type(self).__name__} {self}: {', '.join([*parts, *filter(None, [read.error])])}"

    def locked(self) -> AbstractContextManager[None]:
        """Hold the folder; see `convnets.runs.lock.locked`."""
        return locked(self.path)

    def _read(self, name: str, read: Callable[[Path], dict[str, Any]] = read_json) -> dict[str, Any]:
        if self._kept is None:
            return read(self.path / name)
        if name not in self._kept:
            self._kept[name] = read(self.path / name)
        return self._kept[name]

    @property
    def status(self) -> dict[str, Any]:
        """The content of status.json, empty where there is none."""
        return self._read("status.json")

    @property
    def result(self) -> dict[str, Any]:
        """The content of result.json, empty where the run has not finished."""
        return self._read("result.json", self._read_result)

    def _read_result(self, path: Path) -> dict[str, Any]:
        result = read_json(path)
        if result and not (isinstance(result.get("metrics"), dict) and "validated_on" in result):
            raise RunFolderError(f"{path} is damaged. To train anew: {removal(self.path)}")
        return result

    @property
    def stored_config(self) -> dict[str, Any]:
        """The content of config.yaml, which may call for anything: to be read, not to be built from."""
        return self._read("config.yaml", self._read_config)

    def _read_config(self, path: Path) -> dict[str, Any]:
        try:
            config = _load(path)
        except FileNotFoundError:
            raise RunFolderError(f"{self} is no run's folder: it has no config.yaml.") from None
        except (yaml.YAMLError, ValueError):
            config = None
        if not isinstance(config, dict) or not all(
            isinstance(config.get(key), dict) for key in ("model", "data", "trainer")
        ):
            raise RunFolderError(f"{self}/config.yaml is damaged. To train anew: {removal(self.path)}")
        return {str(key): value for key, value in config.items()}

    @property
    def config(self) -> DictConfig:
        """The resolved configuration that the run was started with, safe to build from.

        Raises:
            ConfigurationError: it calls for a class that is neither in conf/ nor trusted.
        """
        stored = self.stored_config
        check_targets(stored, self.trust, f"{self}/config.yaml")
        return OmegaConf.create(stored)

    @functools.cached_property
    def values(self) -> dict[str, Any]:
        """The dotted keys of config.yaml and their values, all of them."""
        return flatten(self.stored_config)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The choices of groups (`init`: `xavier`), then the dotted keys that decide the result, seeds left out."""
        config = self.stored_config
        choices = choices_of_run(config)
        if not changing_callbacks(config):
            choices.pop("callbacks", None)
        deciding = {key: value for key, value in content(config).items() if key not in NOT_RECIPE}
        return {**{group: choices.get(group) for group in GROUPS}, **deciding}

    @property
    def test_images(self) -> dict[str, Any]:
        """The keys that say which images the test split has, with their values."""
        keys = [f"data.{key}" for key in ("_target_", "set", "split", "dir", "test_share")]
        keys += ["data.split_seed"] if "data.test_share" in self.settings else []
        return {key: self.settings[key] for key in keys if key in self.settings}

    @functools.cached_property
    def changes(self) -> list[str]:
        """The dotted keys that were set otherwise than the choices of groups have them."""
        return [key for key in self.stored_config.get("changes", []) if key not in NOT_RECIPE]

    def with_settings(self, settings: Mapping[str, Any], changes: Sequence[str]) -> Self:
        """The same run, known by other settings."""
        twin = copy.copy(self)
        twin.settings, twin.changes = dict(settings), list(changes)
        twin.__dict__.pop("recipe", None)
        return twin

    @property
    def code(self) -> dict[str, Any]:
        """The content of code.json; see `convnets.runs.sources`."""
        return self._read(RECORD)

    @property
    def facts(self) -> dict[str, Any]:
        """The content of data.json, see `convnets.runs.images`; empty in a run from before there was such a file."""
        return self._read(images.RECORD)

    @property
    def metrics(self) -> dict[str, float]:
        """The final metrics, such as `val/accuracy`; empty where the run has not finished."""
        return self.result.get("metrics", {})

    @functools.cached_property
    def state(self) -> str:
        """Done, running, paused, killed, failed, interrupted, out_of_memory, not started, result removed or damaged."""
        if self.result:
            return "done"
        # A status that says done outlives its result only where a person removed it.
        state = self.status.get("state", "not started")
        return "running" if is_held(self.path) else {"running": "killed", "done": "result removed"}.get(state, state)

    @property
    def error(self) -> str:
        """Why it is failed or damaged, in a line."""
        failed = self.state in ("failed", "out_of_memory")
        return self.damage or (str(self.status.get("error", "")).partition("\n")[0] if failed else "")

    @functools.cached_property
    def recipe(self) -> str:
        """The same for runs that differ only in their seed and in what they run on."""
        return json.dumps({key: value for key, value in self.settings.items() if key not in GROUPS}, sort_keys=True)

    @property
    def seeds(self) -> tuple[Any, Any, Any]:
        """The seed of weights and steps, that of the data's order, nearly always the same, and the fold held out."""
        return self.values.get("seed"), self.values.get("data.seed"), self.values.get("data.fold") or 0

    @property
    def epoch(self) -> int:
        """How many epochs are finished."""
        return int(self.result.get("epochs", self.status.get("epoch", 0)))

    def setting(self, key: str) -> Any:
        """The value of a group or a dotted key, None where it has none."""
        return self.settings.get(key, self.values.get(key))

    def value(self, metric: str) -> float | None:
        """A final metric such as `val/accuracy`, or another number of the result such as `seconds`."""
        found = self.metrics.get(metric, self.result.get(metric))
        return found if isinstance(found, (int, float)) and not isinstance(found, bool) else None

    def latest(self, metric: str) -> float | None:
        """The metric after the last finished epoch."""
        found = self.value(metric)
        return self.status.get("metrics", {}).get(metric) if found is None else found

    def validated_on_test_split(self) -> bool:
        """Whether validation looked at the test split, so that its figures are not fit for choosing."""
        held_out = self.values.get("data.holdout") or self.values.get("data.folds")
        return self.result.get("validated_on", "holdout" if held_out else "test split") == "test split"

    @property
    def history(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, one an epoch; empty where it has none."""
        return read_table(self.path / "metrics.csv")

    def standing(self) -> str:
        """How far the run has come, in words, with the command that goes on."""
        if self.result:
            return "it is finished"
        state = self.status.get("state", "not started")
        state = {"running": "running or killed", "done": "its result.json removed"}.get(state, state)
        reason = f" ({self.status['error'].splitlines()[0]})" if self.status.get("error") else ""
        return f"it is {state} after epoch {self.status.get('epoch', 0)}{reason}; to go on: {self.resume_command()}"

    def resume_command(self) -> str:
        """The command that goes on with the run."""
        known, trust = shipped_targets(), []
        with suppress(RunFolderError):  # of a folder that has vanished
            targets = [value for key, value in self.values.items() if key.endswith("._target_")]
            trust = [word for name in targets if name not in (*known, None) for word in ("--trust", str(name))]
        return script("resume", typed(self.path), *trust)

    def is_complete(self) -> bool:
        """Whether everything is there that a finished run leaves."""
        return all((self.path / name).exists() for name in FINISHED_FILES)

    def finished_result(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The result, if this configuration has finished here; empty where it can be started.

        Raises:
            RunFolderError: the folder holds something else.
        """
        present = [name for name in STARTED_FILES if (self.path / name).exists()]
        if not present:
            return {}
        way_out = f"Set run_name=NAME for a new folder, or remove this one: {removal(self.path)}"
        if "config.yaml" not in present:
            raise RunFolderError(f"{self} holds {', '.join(present)}, but no config.yaml to say of what run. {way_out}")
        if differing := differences(self.stored_config, config):
            lines = [f"  {key}: {theirs} there, {ours} now" for key, (theirs, ours) in differing.items()]
            raise RunFolderError("\n".join([f"{self} holds a run of another configuration:", *lines, way_out]))
        if self.result and not self.is_complete():
            missing = [name for name in FINISHED_FILES if name not in present]
            raise RunFolderError(f"{self} was finished, but lacks {', '.join(missing)}. {way_out}")
        if self.result or (self.path / "checkpoints").exists():
            check_code(self.path, config)
        return self.result

    def start(self, config: Mapping[str, Any], epoch: int | None = None) -> None:
        """Write config.yaml, and a status that says so.

        Args:
            epoch: how many were finished in the process before, where the run goes on.
        """
        previous = self.status if epoch is not None else {}
        if epoch is None:  # what an attempt left that did not reach its first checkpoint
            for path in [self.path / "metrics.csv", *self.path.glob("events.out.tfevents.*")]:
                path.unlink(missing_ok=True)
        self.save_config({**config, "ignore_code_changes": False})  # which is for this once
        record_code(self.path, config, goes_on=epoch is not None)
        process = {"state": "running", "pid": os.getpid(), "host": socket.gethostname()}
        times = {
            "started": previous.get("started", now()),
            "resumed": previous.get("resumed", -1) + 1 if previous else 0,
        }
        self._write_status({**process, **times, "epoch": epoch or 0})

    def reopen(self, config: Mapping[str, Any]) -> None:
        """Make a finished run an unfinished one, to be gone on with by this configuration."""
        (self.path / "result.json").unlink(missing_ok=True)
        self.set_status("interrupted")
        self.save_config(config)

    def save_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml."""
        write_atomically(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))

    def set_status(self, state: str, **values: Any) -> None:
        """Change status.json: running, paused, done, failed, interrupted or out_of_memory."""
        self._write_status({**self.status, "state": state, **values})

    def _write_status(self, status: dict[str, Any]) -> None:
        status["updated"] = now()
        write_atomically(self.path / "status.json", json.dumps(status, indent=2) + "\n")

    def finish(self, result: Mapping[str, Any], keep_checkpoints: bool) -> None:
        """Write result.json, then a status that says so, then remove the checkpoints; go on where that was cut off."""
        if not self.result:
            write_atomically(self.path / "result.json", json.dumps(result, indent=2) + "\n")
        if self.status.get("state") != "done":
            self.set_status("done", metrics=result["metrics"])  # of the weights that were chosen
        if not keep_checkpoints:
            shutil.rmtree(self.path / "checkpoints", ignore_errors=True)


def _load(path: Path) -> Any:
    """Read a configuration, in which classes of the first runs get the names that they have now."""
    config = yaml.load(path.read_text(), LOADER)
    callbacks = config.get("callbacks") if isinstance(config, dict) else None
    for item in callbacks.values() if isinstance(callbacks, dict) else ():
        if isinstance(item, dict) and item.get("_target_") in MOVED:
            item["_target_"] = MOVED[item["_target_"]]
    return config


def read_run(path: Path) -> Run:
    """Read a run's folder. What cannot be read makes a damaged run, not an error: others are to be shown beside it."""
    run = Run(path, once=True)
    files: dict[str, dict[str, Any]] = {"status.json": {}, "result.json": {}, "config.yaml": {}, RECORD: {}}
    try:
        run._kept = {"result.json": read_json(path / "result.json")}  # whatever it lacks
        _ = run.status, run.code
        config = _load(path / "config.yaml")
        if not isinstance(config, dict) or not config:
            raise ValueError("it holds no configuration")
        run._kept = {**(run._kept or {}), "config.yaml": config}
        _ = run.settings, run.state
    except RunFolderError as error:
        run.damage, run._kept = str(error), files
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        run.damage, run._kept = f"{shown(path)}/config.yaml cannot be read: {reason}", files
    if run.damage:
        run.settings, run.state = {}, "damaged"
    return run
