"""`hydra/sweeper=listed`: a grid, in which values of several keys may go together and whole override sets be listed."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


@dataclass
class ListedSweeperConf:
    """What `hydra.sweeper` may hold."""

    _target_: str = "hydra_plugins.listed_sweeper.listed_sweeper.ListedSweeper"
    params: Any = None  # a grid, as of Hydra's basic sweeper
    together: Any = None  # a list of blocks; a block's keys have lists of one length, whose first values go together
    listed: Any = None  # override sets: each a line of overrides, or a list of them


ConfigStore.instance().store(group="hydra/sweeper", name="listed", node=ListedSweeperConf, provider="listed_sweeper")


class ListError(ValueError):
    """A sweep's list cannot be read; the text says why."""


class ListedSweeper(Sweeper):
    """Launches the product of the grid, the blocks and the list as one batch."""

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(self, params: Any, together: Any, listed: Any) -> None:
        self.params = params or {}
        self.together = together or []
        self.listed = listed or []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run every job; raise the error of one that failed."""
        jobs = self.jobs([*(f"{key}={value}" for key, value in self.params.items()), *arguments])
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        self.validate_batch_is_legal(jobs)
        returned = self.launcher.launch(jobs, initial_job_idx=0)
        for one in returned:
            _ = one.return_value  # raises, where the job has
        return [returned]

    def jobs(self, words: Sequence[str]) -> list[list[str]]:
        """The overrides of each job, the last factor changing fastest: the grid, then the blocks, then the list.

        Raises:
            ListError: a block's lists are not of one length, or something cannot be enumerated.
        """
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        grid: dict[str, list[list[str]]] = {}
        for override in parser.parse_overrides(list(words)):
            key = override.get_key_element()
            if override.is_discrete_sweep():
                grid[key] = [[f"{key}={value}"] for value in override.sweep_string_iterator()]
            elif override.is_sweep_override():
                raise ListError(f"{override.input_line}: hydra/sweeper=listed takes values one can count.")
            else:
                grid[key] = [[str(override.input_line)]]
        listed = [shlex.split(line) if isinstance(line, str) else [*map(str, line)] for line in self.listed]
        factors = [*grid.values(), *map(_rows_of, self.together), listed or [[]]]
        return [[word for words in choice for word in words] for choice in itertools.product(*factors)]


def _rows_of(block: Mapping[str, Sequence[Any]]) -> list[list[str]]:
    """The override sets of a block: the first values of all keys, then the second ones."""
    if not isinstance(block, Mapping) or len({len(values) for values in block.values()}) != 1:
        lengths = {key: len(values) for key, values in block.items()} if isinstance(block, Mapping) else block
        raise ListError(f"Values that go together need lists of one length, got {lengths}.")
    rows = zip(*block.values(), strict=True)
    return [[f"{key}={_as_text(value)}" for key, value in zip(block, row, strict=True)] for row in rows]


def _as_text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_as_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(_as_text, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
