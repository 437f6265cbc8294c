"""`hydra/sweeper=optuna_search`: a search whose command, given again, runs only what is missing.

Hydra imports this module whenever a program starts, so Optuna is imported only when a search begins.
"""

import shlex
import sys
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

PACKAGES = ("optuna>=5,<6",)


@dataclass
class HalvingConf:
    """When a trial is paused; without `num_epochs` none is."""

    num_epochs: Any = None  # of a whole trial
    first_epoch: int = 1  # the earliest after which a trial is judged
    reduction: int = 3  # of so many trials one goes on
    remove: list[str] = field(default_factory=list)  # from the folders of trials that will not go on


@dataclass
class OptunaSearchConf:
    """What `hydra.sweeper` may hold."""

    _target_: str = "hydra_plugins.optuna_search.optuna_search.OptunaSearch"
    _recursive_: bool = False  # the sampler is made anew for each trial
    sampler: Any = field(default_factory=lambda: {"_target_": "optuna.samplers.TPESampler", "seed": 0})
    direction: str = "maximize"  # or minimize
    journal: str = "${hydra.sweep.dir}/search.journal"
    study_name: str = "search"
    n_trials: int = 20  # in all, over every time the command is given
    n_jobs: int = 4  # trials in a batch, of launchers that take batches
    retry_failed: bool = False  # draw the parameters of failed trials once more
    halving: HalvingConf = field(default_factory=HalvingConf)
    params: Any = None  # the search space: a key, and how Hydra's override grammar writes its values


ConfigStore.instance().store(
    group="hydra/sweeper", name="optuna_search", node=OptunaSearchConf, provider="optuna_search"
)


class MissingPackagesError(RuntimeError):
    """Optuna is not installed; the text says how to install it."""


class OptunaSearch(Sweeper):
    """The sweeper that Hydra knows; `_search.Search` does its work, once Optuna is imported."""

    hydra_context: HydraContext
    config: DictConfig
    launcher: Launcher

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher.

        Raises:
            MissingPackagesError: Optuna is not installed.
        """
        from hydra.core.plugins import Plugins

        try:
            import optuna  # noqa: F401 (here, so that nothing is begun without it)
        except ImportError as error:
            raise MissingPackagesError(
                f"hydra/sweeper=optuna_search needs a package that is not there ({error}): "
                f"{shlex.quote(sys.executable)} -m pip install {shlex.join(PACKAGES)}"
            ) from error
        self.hydra_context = hydra_context
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that are missing, and print the best."""
        from hydra_plugins.optuna_search._search import Search

        options = {key: value for key, value in self.options.items() if key != "params"}
        params = [f"{key}={value}" for key, value in (self.options["params"] or {}).items()]
        Search(self.hydra_context.config_loader, self.config, self.launcher, **options).run([*params, *arguments])
