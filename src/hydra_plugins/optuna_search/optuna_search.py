"""`hydra/sweeper=optuna_search`: random or Bayesian search whose command, given again, runs only what is missing.

Hydra imports this module whenever a program starts, so Optuna is imported only when a search begins.
"""

import shlex
import sys
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

PACKAGES = ("hydra-optuna-sweeper==1.3.0", "optuna==2.10.1", "sqlalchemy==1.4.54", "alembic==1.13.3")


@dataclass
class OptunaSearchConf:
    """What `hydra.sweeper` may hold: the keys of Hydra's own Optuna sweeper, with other defaults."""

    _target_: str = "hydra_plugins.optuna_search.optuna_search.OptunaSearch"
    _recursive_: bool = False  # the sampler is made anew for each trial
    sampler: Any = field(default_factory=lambda: {"_target_": "optuna.samplers.TPESampler", "seed": 0})
    direction: Any = "maximize"
    storage: str = "sqlite:///${hydra.sweep.dir}/search.db"
    study_name: str = "search"
    n_trials: int = 20  # in all, over every time the command is given
    n_jobs: int = 4  # trials drawn at a time; the next are drawn when these have ended
    max_failure_rate: float = 1.0  # of the trials drawn at a time: a job that fails, fails alone
    params: Any = None
    custom_search_space: str | None = None


ConfigStore.instance().store(
    group="hydra/sweeper", name="optuna_search", node=OptunaSearchConf, provider="optuna_search"
)


class MissingPackagesError(RuntimeError):
    """Optuna or Hydra's sweeper for it is not installed; the text says how to install them."""


class OptunaSearch(Sweeper):
    """The sweeper that Hydra knows; `_search.Search` does its work, once Optuna is imported."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the search.

        Raises:
            MissingPackagesError: Optuna or Hydra's sweeper for it is not installed.
        """
        try:
            from hydra_plugins.optuna_search._search import Search
        except ImportError as error:
            raise MissingPackagesError(
                f"hydra/sweeper=optuna_search needs packages that are not there ({error}): "
                f"{shlex.quote(sys.executable)} -m pip install {' '.join(PACKAGES)}"
            ) from error
        self.search = Search(**self.options)
        self.search.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that are missing."""
        self.search.sweep(arguments)
