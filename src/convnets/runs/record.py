"""Runs as their folders tell of them, finished or not. Builds nothing and knows no torch: a thousand take seconds."""

import csv
import difflib
import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from convnets.configuration.composition import GROUPS
from convnets.configuration.content import NOT_RECIPE, changing_callbacks, content, flatten
from convnets.files import RunFolderError, is_held, last_change, read_json, shown

FILES_OF_A_RUN = {"config.yaml", "status.json", "result.json"}
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's takes a seventh of the time


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Args:
        state: done, running, killed, failed, interrupted, out_of_memory, not started or damaged.
        config: dotted keys and values, all of them.
        settings: the choices of groups (`init`: `xavier`), then the dotted keys that decide the result, seeds left out.
        changes: the dotted keys that were set otherwise than the choices of groups have them.
        status: of status.json.
        result: of result.json, empty where it has not finished.
        error: why it is failed or damaged, in a line.
        code: the modules of its training with their digests; see `convnets.runs.sources`.
        code_changed: whether it went on by other code than it had begun with.
    """

    path: Path
    state: str
    config: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[str] = ()
    status: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    code: Mapping[str, str] = field(default_factory=dict)
    code_changed: bool = False

    @functools.cached_property
    def recipe(self) -> str:
        """The same for runs that differ only in their seed and in what they run on."""
        return json.dumps({key: value for key, value in self.settings.items() if key not in GROUPS}, sort_keys=True)

    @property
    def seeds(self) -> tuple[Any, Any]:
        """Of weights and steps, and of the data's order: nearly always the same."""
        return self.config.get("seed"), self.config.get("data.seed")

    @property
    def epoch(self) -> int:
        """How many are finished."""
        return int(self.result.get("epochs", self.status.get("epoch", 0)))

    @property
    def num_epochs(self) -> int | None:
        """How many there are to be."""
        return self.config.get("trainer.max_epochs")

    @property
    def device(self) -> str:
        """What it ran on."""
        return str(self.result.get("device", ""))

    def setting(self, key: str) -> Any:
        """The value of a group or a dotted key, None where it has none."""
        return self.settings.get(key, self.config.get(key))

    def value(self, metric: str) -> float | None:
        """A final metric such as `val/accuracy`, or another number of the result such as `seconds`."""
        found = self.result.get("metrics", {}).get(metric, self.result.get(metric))
        return found if isinstance(found, (int, float)) and not isinstance(found, bool) else None

    def latest(self, metric: str) -> float | None:
        """The metric after the last finished epoch."""
        found = self.value(metric)
        return self.status.get("metrics", {}).get(metric) if found is None else found

    @property
    def ended_early(self) -> str:
        """Why it ended before its last epoch; empty where it did not."""
        return str(self.result.get("ended_early") or "")

    def validated_on_test_split(self) -> bool:
        """Whether validation looked at the test split, so that its figures are not fit for choosing."""
        protocol = self.result.get("validated_on", "holdout" if self.config.get("data.holdout") else "test split")
        return protocol == "test split"

    def rows(self) -> list[dict[str, float]]:
        """The rows of metrics.csv; empty where it has none."""
        try:
            with (self.path / "metrics.csv").open() as file:
                return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        except (OSError, TypeError, ValueError):
            return []

    def curve(self, metric: str) -> list[tuple[float, float]]:
        """Epoch and value; empty where it has none."""
        return [(row["epoch"], row[metric]) for row in self.rows() if metric in row]


def read_run(path: Path) -> RunRecord:
    """Read a run's folder. What cannot be read makes a damaged run, not an error: others are to be shown beside it."""
    try:
        result, status, code = (read_json(path / name) for name in ("result.json", "status.json", "code.json"))
        config = yaml.load((path / "config.yaml").read_text(), Loader=LOADER)
        if not isinstance(config, dict) or not config:
            raise ValueError("it holds no configuration")
        values = {key: value for key, value in content(config).items() if key not in NOT_RECIPE}
    except RunFolderError as error:
        return RunRecord(path, "damaged", error=str(error))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        return RunRecord(path, "damaged", error=f"{shown(path)}/config.yaml cannot be read: {reason}")
    flat = flatten(config)
    settings = {**_choices(config), **values}
    changes = [key for key in config.get("changes", []) if key not in NOT_RECIPE]
    if result:
        modules, code_changed = code.get("modules", {}), "earlier" in code
        return RunRecord(path, "done", flat, settings, changes, status, result, "", modules, code_changed)
    state = status.get("state", "not started")
    # A status that says done outlives its result only where a person removed it.
    state = "running" if is_held(path) else {"running": "killed", "done": "result removed"}.get(state, state)
    told = str(status.get("error", "")).partition("\n")[0] if state in ("failed", "out_of_memory") else ""
    return RunRecord(path, state, flat, settings, changes, status, {}, told)


def _choices(config: Mapping[str, Any]) -> dict[str, Any]:
    """The choices of groups as they were made; of callbacks only where some do more than watch."""
    model = config.get("model")
    choices = {"model": model.get("name") if isinstance(model, Mapping) else None, **config.get("choices", {})}
    if not changing_callbacks(config):
        choices.pop("callbacks", None)
    return {group: choices.get(group) for group in GROUPS}


def find_folders(words: Sequence[str]) -> list[Path]:
    """The folders meant: paths, names in outputs/sweeps and outputs/runs, or latest; by default both of these.

    Raises:
        RunFolderError: there is no such folder.
    """
    parents = [Path("outputs/sweeps"), Path("outputs/runs")]
    if not words:
        return [parent for parent in parents if parent.is_dir()]
    folders = []
    for word in words:
        if not word:
            raise RunFolderError("The name of a folder is empty: give a run's, a sweep's or any folder above.")
        if word == "latest" and (runs := find_runs([parent for parent in parents if parent.is_dir()])):
            folders.append(max(runs, key=last_change))
            continue
        found = [path for path in (Path(word), *(parent / word for parent in parents)) if path.is_dir()]
        if not found:
            names = [path.name for parent in parents if parent.is_dir() for path in parent.iterdir()]
            nearest = difflib.get_close_matches(word, names, n=1)
            hint = f" Did you mean {nearest[0]}?" if nearest else " Give a run's, a sweep's or any folder above."
            raise RunFolderError(f"There is no folder {word}.{hint}")
        folders.append(found[0])
    return folders


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The runs' folders in these, at any depth, each once."""
    found = {path.resolve(): path for folder in folders for path in _runs_below(folder)}
    return list(found.values())


def _runs_below(folder: Path) -> Iterator[Path]:
    for name, folders, files in os.walk(folder):
        if not FILES_OF_A_RUN.isdisjoint(files):
            folders.clear()
            yield Path(name)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
