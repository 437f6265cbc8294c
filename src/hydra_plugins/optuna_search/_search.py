"""A search: draws trials, has a launcher run them, and tells Optuna's study what became of them."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.trial import FrozenTrial, TrialState

from hydra_plugins.optuna_search._drawing import sampler_of
from hydra_plugins.optuna_search._halving import Plan, Standing
from hydra_plugins.optuna_search._journal import Journal, SearchError
from hydra_plugins.optuna_search._picture import draw_search
from hydra_plugins.optuna_search._space import Space

PAUSE_FILE = "pause.json"  # in a job's folder: see the README
Draw = Callable[[], tuple[int, Sequence[str]] | None]


class Search:
    """A search in a folder. Given again, it runs what is missing there.

    Args:
        options: the keys of `hydra.sweeper`.
    """

    def __init__(self, config_loader: ConfigLoader, config: DictConfig, launcher: Launcher, **options: Any) -> None:
        self.config_loader = config_loader
        self.config = config
        self.launcher = launcher
        self.folder = Path(str(config.hydra.sweep.dir)).absolute()
        self.sampler: DictConfig = OmegaConf.create(options["sampler"])
        self.sign = {"maximize": 1, "minimize": -1}[options["direction"]]
        self.num_trials: int = options["n_trials"]
        self.batch_size: int = options["n_jobs"]
        self.retries: bool = options["retry_failed"]
        self.halving = options["halving"]
        self.pauses = self.halving["num_epochs"] is not None
        self.plan = Plan(self.num_trials)
        if self.pauses:
            numbers = (int(self.halving[key]) for key in ("num_epochs", "first_epoch", "reduction"))
            self.plan = Plan.of(self.num_trials, *numbers)
        self.journal = Journal(Path(options["journal"]).absolute(), options["study_name"], options["direction"])
        self._running: set[int] = set()
        self._num_failed_before = 0

    def run(self, words: Sequence[str]) -> None:
        """Run the missing trials, and print the best.

        Args:
            words: overrides, of which some search their key; see `Space.parse`.

        Raises:
            SearchError: the folder is in use, or holds a search for something else; or every trial failed.
        """
        self.space = Space.parse(words, self.config_loader)
        # First: where the application refuses what all trials share, no file is left.
        asked = {"hydra.sweep.subdir": self._folder_of({}).name, **self.space.written}
        if self.pauses:
            asked["halving"] = f"{self.num_trials} trials, rungs after epochs {', '.join(map(str, self.plan.rungs))}"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self.journal.opened(asked) as self.study:
            self._take_up()
            if self.pauses:
                print(self._budget(), flush=True)
            one_by_one = getattr(self.launcher, "launch_each", self._in_batches)
            for number, job_return in one_by_one(self._next, self.num_trials):
                self._tell(number, job_return)
            self._settle()
            self._report()

    def _take_up(self) -> None:
        """Make whole what was cut off, and draw failed trials again where that is asked for."""
        trials = self.study.trials
        for trial in trials:  # a draw that was cut off: it is made whole by the next `ask`
            if trial.state == TrialState.RUNNING and trial.params.keys() != self.space.distributions.keys():
                self.journal.storage.set_trial_state_values(self.journal.id_of(trial), TrialState.WAITING)
        failed = [trial for trial in trials if trial.state == TrialState.FAIL]
        self._num_failed_before = len(failed)
        if self.retries:
            known = [trial.params for trial in trials if trial.state != TrialState.FAIL]
            for trial in failed:
                if trial.params not in known:
                    known.append(trial.params)
                    self.study.enqueue_trial(trial.params)
        ended = sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
        if trials:
            print(f"{ended} of {self.num_trials} trials were done before; {self.num_trials - ended} to go", flush=True)

    def _next(self) -> tuple[int, list[str]] | None:
        """The next trial to run, and its overrides; None: none for now."""
        while True:
            trials = self.study.trials
            number = self.plan.next_trial(self._standings(trials), self._running)
            if number is not None:
                self._running.add(number)
                self._ask_for_pause(trials[number])
                return number, self.space.overrides(trials[number].params)
            if not self._draw(trials):
                return None

    def _draw(self, trials: Sequence[FrozenTrial]) -> bool:
        """Draw a trial, if there are to be more."""
        waiting = [trial.number for trial in trials if trial.state == TrialState.WAITING]
        repeated = sum(trial.state == TrialState.FAIL and _is_repeated(trial, trials) for trial in trials)
        if not waiting and len(trials) - repeated >= self.num_trials:
            return False
        self.study.sampler = sampler_of(self.sampler, min(waiting, default=len(trials)))
        self.study.ask(dict(self.space.distributions))
        return True

    def _standings(self, trials: Sequence[FrozenTrial]) -> list[Standing]:
        """How far the trials have come. One with the parameters of an earlier one shares its values, and is not run."""
        standings: list[Standing] = []
        for trial in trials:
            if trial.state == TrialState.WAITING or (trial.state == TrialState.FAIL and _is_repeated(trial, trials)):
                continue
            twin = _twin_of(trial, trials)
            values = self._values(trial if twin is None else twin)
            ended = twin is not None or trial.state != TrialState.RUNNING
            standings.append(Standing(trial.number, values, trial.state == TrialState.FAIL, ended))
        return standings

    def _values(self, trial: FrozenTrial) -> list[float]:
        if trial.state == TrialState.COMPLETE:  # perhaps before its last epoch
            assert trial.value is not None
            return [self.sign * trial.value] * len(self.plan.rungs)
        reached = trial.intermediate_values
        return [self.sign * reached[epoch] for epoch in self.plan.rungs if epoch in reached]

    def _rung_of(self, trial: FrozenTrial) -> int:
        """The epoch after which the trial pauses next, or ends."""
        return self.plan.rungs[len(trial.intermediate_values)]

    def _ask_for_pause(self, trial: FrozenTrial) -> None:
        """Write into the job's folder after which epoch it is to pause; nothing for a trial's last stretch."""
        if not self.pauses:
            return
        folder = self._folder_of(trial.params)
        path, epoch = folder / PAUSE_FILE, self._rung_of(trial)
        if epoch == self.plan.rungs[-1]:
            path.unlink(missing_ok=True)
            return
        folder.mkdir(parents=True, exist_ok=True)
        incoming = path.with_suffix(".incoming")
        incoming.write_text(json.dumps({"after_epoch": epoch}) + "\n")
        incoming.replace(path)

    def _folder_of(self, params: dict[str, Any]) -> Path:
        """The folder of the job with these parameters, or with none: composed as the launcher does it.

        Raises:
            Exception: what the application refuses, such as a wrong value.
        """
        config = self.config_loader.load_sweep_config(self.config, self.space.overrides(params))
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = "search", 0
        sweeps_config = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)  # for resolvers that ask it
        try:
            return self.folder / str(config.hydra.sweep.subdir)
        finally:
            HydraConfig.instance().cfg = sweeps_config

    def _in_batches(self, draw: Draw, num_expected: int) -> Iterator[tuple[int, JobReturn]]:
        """Run what is drawn on a launcher that takes whole batches."""
        num_launched = 0
        while batch := [drawn for _ in range(self.batch_size) if (drawn := draw()) is not None]:
            returned = self.launcher.launch([overrides for _, overrides in batch], initial_job_idx=num_launched)
            num_launched += len(batch)
            yield from zip((number for number, _ in batch), returned, strict=True)

    def _tell(self, number: int, job_return: JobReturn) -> None:
        """Tell the study what a trial has reached; a trial that failed, or has no number to show, has failed."""
        self._running.discard(number)
        trial = self.study.trials[number]
        value: Any = job_return.return_value if job_return.status == JobStatus.COMPLETED else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            if job_return.status == JobStatus.COMPLETED:
                print(f"trial {number} returned {value!r}, which is no number: it counts as failed")
            self.study.tell(number, state=TrialState.FAIL)
            return
        epoch = self._rung_of(trial) if self.pauses else 1
        spent = trial.user_attrs.get("spent", [])
        total = self._num_spent() + epoch - max(trial.intermediate_values, default=0)
        storage, trial_id = self.journal.storage, self.journal.id_of(trial)
        # Before the value itself: cut off in between, the trial is run again, and both are written again.
        storage.set_trial_user_attr(trial_id, "spent", [*spent[: len(trial.intermediate_values)], total])
        if epoch != self.plan.rungs[-1] and (self._folder_of(trial.params) / PAUSE_FILE).exists():
            storage.set_trial_intermediate_value(trial_id, epoch, float(value))
        else:
            self.study.tell(number, float(value))

    def _num_spent(self) -> int:
        """Epochs of all trials so far, as far as they are known."""
        return max((total for trial in self.study.trials for total in trial.user_attrs.get("spent", [])), default=0)

    def _settle(self) -> None:
        """End the trials that will not go on, and those that had the parameters of others."""
        trials = self.study.trials
        for trial in trials:
            twin = _twin_of(trial, trials)
            if trial.state != TrialState.RUNNING or twin is not None:
                continue
            folder = self._folder_of(trial.params)
            for name in (PAUSE_FILE, *self.halving["remove"]):
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            self.study.tell(trial.number, state=TrialState.PRUNED)
        for trial in trials:
            if trial.state == TrialState.RUNNING and (twin := _twin_of(trial, trials)) is not None:
                ended = self.study.trials[twin.number]
                for epoch, value in ended.intermediate_values.items():
                    self.journal.storage.set_trial_intermediate_value(self.journal.id_of(trial), epoch, value)
                self.study.tell(trial.number, None if ended.state == TrialState.PRUNED else ended.value, ended.state)

    def _budget(self) -> str:
        rungs = self.plan.rungs
        share = self.plan.num_epochs / (self.num_trials * rungs[-1])
        steps = [f"{self.plan.num_beyond(rung - 1)} to epoch {epoch}" for rung, epoch in enumerate(rungs)]
        whole = f"{self.num_trials * rungs[-1]:,}"
        return f"at most {self.plan.num_epochs:,} epochs, {share:.2f} of the full search's {whole}: {', '.join(steps)}"

    def _report(self) -> None:
        """Print and write what was found.

        Raises:
            SearchError: no trial was finished.
        """
        trials = self.study.trials
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        failed = [trial for trial in trials if trial.state == TrialState.FAIL]
        paused = [trial for trial in trials if trial.state == TrialState.PRUNED]
        place = os.path.relpath(self.folder)
        if not done:
            raise SearchError(f"All {len(failed)} trials failed: {place}/logs may say why.")
        best = self.study.best_trial
        found = {"name": "optuna", "best_params": best.params, "best_value": best.value}
        OmegaConf.save(OmegaConf.create(found), self.folder / "optimization_results.yaml")
        words = " ".join(self.space.overrides(best.params)[len(self.space.fixed) :])
        print(f"the best of {len(done)} trials reached {best.value:.4f}: {words}")
        if paused:
            print(f"{len(paused)} trials were paused for good:")
            for trial in sorted(paused, key=lambda trial: -self.sign * (trial.value or 0)):
                params = " ".join(self.space.overrides(trial.params)[len(self.space.fixed) :])
                print(f"  after epoch {trial.last_step} at {trial.value:.4f}: {params}")
        if self.pauses:
            whole = self.num_trials * self.plan.rungs[-1]
            print(f"epochs spent: {self._num_spent():,}; the full search would have cost {whole:,}")
        if failed:
            numbers = ", ".join(str(trial.number) for trial in failed)
            print(
                f"{len(failed)} of {len(trials)} trials failed: {numbers}. hydra.sweeper.retry_failed=true tries again."
            )
        draw_search(self.study, self.folder / "search.png", "epochs" if self.pauses else "trials")
        print(f"all trials: {os.path.relpath(self.journal.path)}, for optuna-dashboard; the runs, search.png beside it")


def _twin_of(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """An earlier trial with the same parameters that has not failed."""
    earlier = (one for one in trials[: trial.number] if one.params == trial.params and one.state != TrialState.FAIL)
    return next(earlier, None) if trial.state != TrialState.FAIL else None


def _is_repeated(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Whether a failed trial was drawn again on purpose."""
    later = trials[trial.number + 1 :]
    return any(one.system_attrs.get("fixed_params") == trial.params for one in later)
