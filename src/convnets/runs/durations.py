"""How long runs take, from those that are finished."""

import functools
import statistics
from collections.abc import Mapping
from typing import Any

from convnets.configuration.content import content, is_part_of
from convnets.runs.finding import find_folders, find_runs
from convnets.runs.run import read_run

# Content that hardly changes how long a run takes.
NOT_IN_DURATION = (
    *("seed", "data.seed", "data.split_seed", "data.holdout", "data.fold", "model.lr", "model.backbone_lr"),
    *("model.bias_lr", "model.decayed", "averaging", "stopping", "test_time_augmentation"),
    *("loss", "optimizer", "schedule", "init"),
)


def known_seconds(config: Mapping[str, Any]) -> float | None:
    """The median duration of the finished runs in outputs/ that take as long as this one; None where there is none."""
    wanted = _what_takes_time(config)
    durations = [seconds for slow_part, seconds in _finished_runs() if slow_part == wanted]
    return statistics.median(durations) if durations else None


def _what_takes_time(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content(config).items() if not is_part_of(key, NOT_IN_DURATION)}


@functools.cache
def _finished_runs() -> list[tuple[dict[str, Any], float]]:
    runs = [run for run in map(read_run, find_runs(find_folders([]))) if run.state == "done"]
    return [(_what_takes_time(run.stored_config), seconds) for run in runs if (seconds := run.value("seconds"))]
