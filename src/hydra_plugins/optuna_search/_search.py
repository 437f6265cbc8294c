"""Hydra's Optuna sweeper, extended so that an interrupted search goes on."""

import copy
import fcntl
import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, open_dict

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # SQLAlchemy 1.4 says that there is a 2, which Optuna 2 cannot use
    import optuna
    from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl, create_params_from_overrides
    from optuna.trial import TrialState

ASKED = "asked"  # the study's attribute that says what is searched


class SearchError(RuntimeError):
    """A search cannot begin, or some of its trials failed; the text says what to do."""


class Search(OptunaSweeperImpl):
    """A search that counts the trials of earlier commands, and repeats those that did not end well.

    The study is a file in the sweep's folder. A trial's draw is a function of the sampler's seed and the trial's
    number, so a search that goes on does not repeat what it drew before. Hydra's sweeper has no public way to extend
    it: this extends its pinned version's own class, and the tests of the extra `search` fail when that changes.
    """

    def __init__(self, sampler: DictConfig, **options: Any) -> None:
        super().__init__(sampler=None, search_space=None, **options)
        self.storage: Any
        self.n_trials: int
        self.sampler_config = sampler

    def sweep(self, arguments: list[str]) -> None:
        """Run the missing trials, and print the best.

        Raises:
            SearchError: the folder is in use, or holds a search for something else; or some trials failed.
        """
        _, fixed = create_params_from_overrides([*self._parse_sweeper_params_config(), *arguments])
        asked = self._what_is_asked(arguments, fixed)  # first: where the application refuses it, no file is left
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder = Path(os.path.relpath(self.sweep_dir))
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            self.storage = optuna.storages.get_storage(self.storage)
            self.study = optuna.create_study(
                self.storage, study_name=self.study_name, direction=self.direction, load_if_exists=True
            )
            self._check_asked(asked, folder)
            self._queue_unfinished()
            wanted, self.n_trials = self.n_trials, max(self.n_trials - self._num(TrialState.COMPLETE), 0)
            self.sampler = self._sampler(len(self.study.trials))
            if self.n_trials < wanted:
                print(f"{wanted - self.n_trials} of {wanted} trials were done before; {self.n_trials} to go")
            try:
                super().sweep(arguments)
            except ValueError:
                if self._num(TrialState.COMPLETE):
                    raise
            self._report(wanted, folder)

    def _what_is_asked(self, arguments: Sequence[str], fixed: dict[str, Any]) -> dict[str, str]:
        """The search space, and the folder of a job with the fixed parameters alone, which tells of all other settings.

        Raises:
            Exception: what the application refuses, such as a wrong value.
        """
        config = self.hydra_context.config_loader.load_sweep_config(
            self.config, [f"{name}={value}" for name, value in fixed.items()]
        )
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = "search", 0
        sweeps_config = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)  # for resolvers that ask it
        try:
            folder = str(config.hydra.sweep.subdir)
        finally:
            HydraConfig.instance().cfg = sweeps_config
        words = [word.partition("=") for word in [*self._parse_sweeper_params_config(), *arguments]]
        space = {name: value for name, _, value in words if name not in fixed}
        return {"hydra.sweep.subdir": folder, **space}

    def _check_asked(self, asked: dict[str, str], folder: Path) -> None:
        there = self.study.user_attrs.get(ASKED)
        if there is None:
            self.study.set_user_attr(ASKED, asked)
        elif differing := sorted(name for name in {*there, *asked} if there.get(name) != asked.get(name)):
            lines = [f"  {name}: {there.get(name)} there, {asked.get(name)} now" for name in differing]
            heading, way_out = f"{folder} holds a search for something else:", "Search in another folder, or remove it."
            raise SearchError("\n".join([heading, *lines, way_out]))

    def _queue_unfinished(self) -> None:
        """Queue the trials that were running when the search was cut off, and those that failed."""
        trials = self.study.trials
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                self.storage.set_trial_state(trial._trial_id, TrialState.WAITING)
        tried_again = [trial.params for trial in trials if trial.state != TrialState.FAIL]
        for trial in trials:
            if trial.state == TrialState.FAIL and trial.params not in tried_again:
                tried_again.append(trial.params)
                again = copy.copy(trial)
                again.state, again.values = TrialState.WAITING, None
                again.datetime_start = again.datetime_complete = None
                self.storage.create_new_trial(self.study._study_id, template_trial=again)

    def _configure_trials(self, trials: list[Any], *arguments: Any) -> Sequence[Sequence[str]]:
        overrides: list[Sequence[str]] = []
        for trial in trials:
            trial.study.sampler = self._sampler(trial.number)
            overrides += super()._configure_trials([trial], *arguments)
        return overrides

    def _sampler(self, number: int) -> Any:
        """The sampler of one trial, whose numbers have three digits: they stand in commands and in folders' names."""
        seed = self.sampler_config.get("seed")
        digest = hashlib.blake2b(json.dumps([seed, number]).encode(), digest_size=4).digest()
        sampler = instantiate(self.sampler_config, **({} if seed is None else {"seed": int.from_bytes(digest)}))
        if isinstance(sampler, optuna.samplers.BaseSampler):
            draw = sampler.sample_independent
            sampler.sample_independent = lambda *arguments: _rounded(draw(*arguments), arguments[-1])
        return sampler

    def _num(self, state: TrialState) -> int:
        return Counter(trial.state for trial in self.study.trials)[state]

    def _report(self, wanted: int, folder: Path) -> None:
        done = self._num(TrialState.COMPLETE)
        if done:
            best = self.study.best_trial
            words = " ".join(f"{name}={value}" for name, value in best.params.items())
            print(f"the best of {done} trials reached {best.value:.4f}: {words}")
            print(f"all trials: {folder}/search.db, their runs beside it")
        if done < wanted:
            raise SearchError(f"{wanted - done} of {wanted} trials failed. The same command tries them again.")


def _rounded(value: Any, distribution: Any) -> Any:
    if isinstance(value, float):
        return min(max(float(f"{value:.3g}"), distribution.low), distribution.high)
    return value


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second search out of the folder. The lock is the kernel's: when its holder dies, the folder is free."""
    with (folder / ".search.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SearchError(f"Another search is at work in {folder}: wait for it, or search elsewhere.") from None
        yield
