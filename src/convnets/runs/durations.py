"""How long runs take, from those that are finished."""

import functools
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from convnets.configuration.content import (
    content,
    is_part_of,
)

# Content that does not change how long a run takes, or hardly.
NOT_IN_DURATION = ("seed", "data.seed", "data.split_seed", "data.holdout", "model.lr", "optimizer", "schedule", "init")


def known_seconds(config: Mapping[str, Any]) -> float | None:
    """The median duration of the finished runs in outputs/ that take as long as this one; None where there is none."""
    wanted = _what_takes_time(config)
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
