"""`hydra/launcher=gpu_pool`: uses every GPU of the machine, a job on each, the next as soon as one is free.

Hydra imports this module whenever a program starts, so the table, which needs rich, is imported only for a sweep.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser  # there is no public way to the flags that a program was given
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

import __main__
from hydra_plugins.gpu_pool_launcher._pool import Job, Pool
from hydra_plugins.gpu_pool_launcher._slots import Slots, find_gpus


@dataclass
class GpuPoolConf:
    """What `hydra.launcher` may hold."""

    _target_: str = "hydra_plugins.gpu_pool_launcher.gpu_pool_launcher.GpuPoolLauncher"
    gpus_per_job: Any = 1  # resolved in each job's own configuration; "auto" is 1
    jobs_per_gpu: int = 1
    cpu_slots: int = 1  # jobs at once where there is no GPU; they share the processor's threads
    fail_fast: bool = False  # stop the sweep when a job fails
    dry_run: bool = False  # say what would be run
    grace_seconds: float = 60  # between asking a job to stop and killing it
    progress_file: str | None = None  # JSON in the job's folder: epoch, num_epochs, metrics
    progress_metric: str | None = None  # which of its metrics to show
    done_file: str | None = None  # resolved in each job's configuration; a job whose folder has this file is done
    identity: Any = None  # resolved in each job's configuration; jobs of one identity are one job
    estimated_seconds: Any = None  # of a job, resolved in its own configuration; for dry_run
    closing_words: str | None = None  # printed at the end of a sweep without failures


ConfigStore.instance().store(group="hydra/launcher", name="gpu_pool", node=GpuPoolConf, provider="gpu_pool_launcher")


class LaunchError(ValueError):
    """A sweep cannot be started as it was asked for; the text says why."""


class JobsFailedError(RuntimeError):
    """Some jobs of a sweep failed; the others were run."""


class GpuPoolLauncher(Launcher):
    """Starts each job as an ordinary single run of the same program, in a fresh process."""

    config: DictConfig
    hydra_context: HydraContext
    sweep_dir: Path

    def __init__(self, **options: Any) -> None:
        self.options = GpuPoolConf(**options)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra gives, except for the task function: each job's process calls that."""
        self.config = config
        self.hydra_context = hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose and check all jobs, then run them; a job that is done already is not run again.

        Raises:
            LaunchError: two jobs share a folder, one needs more GPUs than there are, or there is no place for any.
            SystemExit: a signal came; the jobs were stopped. After a dry run, with code 0.
        """
        from hydra_plugins.gpu_pool_launcher._table import Table

        slots = self._slots()
        planned = [
            self._plan(list(overrides), number, slots.num_gpus)
            for number, overrides in enumerate(job_overrides, start=initial_job_idx)
        ]
        unique = _without_twins(planned)
        jobs = [one.job for one in unique]
        if self.options.dry_run:
            print(_forecast(unique, len(slots), self.title))
            raise SystemExit(0)
        for one in unique:
            one.forget()
        pool = Pool(slots, os.environ, self.options.fail_fast, self.options.grace_seconds)
        with Table(jobs, len(slots), self.title, self.options.progress_metric) as table:
            pool.run(jobs, table.update)
        table.print_results({one.job.number: one.return_value() for one in unique})
        summary = self._conclude(pool, jobs)
        return [one.completed(summary) for one in planned]

    def launch_each(
        self, draw: Callable[[], tuple[int, Sequence[str]] | None], num_expected: int
    ) -> Iterator[tuple[int, JobReturn]]:
        """Run jobs that are drawn one by one, each when a place is free, and yield what each returned once it ends.

        Args:
            draw: gives the number and the overrides of a job, or None where there is none before another has ended. A
                number that was given before means the same job, which is to be run again.
            num_expected: jobs in all, as far as that is known.

        Raises:
            LaunchError, SystemExit: see `launch`; a dry run draws as many jobs as there are places.
            JobsFailedError: with `fail_fast`, one failed.
        """
        from hydra_plugins.gpu_pool_launcher._table import Table

        slots = self._slots()
        planned: dict[int, _PlannedJob] = {}
        jobs: list[Job] = []

        def plan() -> Job | None:
            if (drawn := draw()) is None:
                return None
            one = self._plan(list(drawn[1]), drawn[0], slots.num_gpus)
            jobs[:] = [*(job for job in jobs if job.number != one.job.number), one.job]
            planned[one.job.number] = one
            one.forget()
            return one.job

        if self.options.dry_run:
            while len(jobs) < len(slots) and plan() is not None:
                pass
            print(_forecast([*planned.values()], len(slots), self.title))
            raise SystemExit(0)
        pool = Pool(slots, os.environ, self.options.fail_fast, self.options.grace_seconds)
        with Table(jobs, len(slots), self.title, self.options.progress_metric, num_expected) as table:
            for job in pool.run_each([], plan, table.update):
                table.update()
                if job.state in ("done", "done before", "failed"):
                    yield job.number, planned[job.number].completed(f"{job.name} failed ({job.outcome()})")
        table.print_results({number: one.return_value() for number, one in planned.items()})
        summary = self._conclude(pool, jobs)
        if any(job.state in ("queued", "stopped") for job in jobs):
            raise JobsFailedError(summary)

    @property
    def title(self) -> str:
        """What the sweep is called where it is shown."""
        return os.path.relpath(self.sweep_dir)

    def _slots(self) -> Slots:
        """The places of this machine.

        Raises:
            LaunchError: there is to be no place for any job.
        """
        setup_globals()
        for key in ("jobs_per_gpu", "cpu_slots"):
            if (number := getattr(self.options, key)) < 1:
                raise LaunchError(f"hydra.launcher.{key} must be at least 1, got {number}.")
        self.sweep_dir = Path(str(self.config.hydra.sweep.dir)).absolute()
        return Slots(find_gpus(os.environ), self.options.jobs_per_gpu, self.options.cpu_slots)

    def _conclude(self, pool: Pool, jobs: Sequence[Job]) -> str:
        """Say which jobs failed, and return that in one line.

        Raises:
            SystemExit: a signal came.
        """
        if pool.received_signal:
            print(f"{signal.Signals(pool.received_signal).name}: stopped. The same command goes on.", file=sys.stderr)
            raise SystemExit(128 + pool.received_signal)
        failed = [job for job in jobs if job.state == "failed"]
        for job in failed:
            log = "".join(f"\n    {line}" for line in job.last_lines())
            print(f"\n{job.name} failed ({job.outcome()}); its log is {os.path.relpath(job.log_path)}{log}")
        if not failed and self.options.closing_words:
            print(self.options.closing_words)
        left_out = sum(job.state in ("queued", "stopped") for job in jobs)
        summary = f"{len(failed)} of {_jobs(len(jobs))} failed: see above."
        return summary + (
            f" {left_out} more were stopped or not begun; the same command runs them." if left_out else ""
        )

    def _plan(self, overrides: list[str], number: int, num_gpus: int) -> "_PlannedJob":
        """Compose a job's configuration, and find out what the job needs and whether it is done already."""
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        sweeps_config = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)  # for resolvers that ask it
        try:
            name, launcher = str(config.hydra.sweep.subdir), config.hydra.launcher
            wanted, done_file, identity = launcher.gpus_per_job, launcher.done_file, launcher.identity
            estimated_seconds = launcher.estimated_seconds if self.options.dry_run else None
        finally:
            HydraConfig.instance().cfg = sweeps_config
        num_wanted = 1 if wanted == "auto" else int(wanted)
        if num_wanted < 1:
            raise LaunchError(f"hydra.launcher.gpus_per_job must be auto or at least 1, got {num_wanted} of {name}.")
        if num_gpus and num_wanted > num_gpus:
            raise LaunchError(f"{name} needs {num_wanted} GPUs, and there are {num_gpus}.")
        folder = self.sweep_dir / name
        log_path = self.sweep_dir / "logs" / f"{name.replace('/', '_')}.log"
        return_path = log_path.with_name(f"{log_path.stem}.return.json")
        job = Job(
            number,
            name,
            folder,
            self._command(overrides, folder, return_path),
            log_path,
            num_places=num_wanted if num_gpus else 1,
            progress_path=folder / self.options.progress_file if self.options.progress_file else None,
        )
        if done_file and (folder / done_file).exists() and return_path.exists():
            job.state = "done before"
        with open_dict(config):
            hydra_config = config.pop("hydra")
        job_return = JobReturn(overrides, config, hydra_config, str(Path.cwd()), name)
        return _PlannedJob(job, overrides, job_return, return_path, estimated_seconds, identity or config)

    def _command(self, overrides: Sequence[str], folder: Path, return_path: Path) -> list[str]:
        """This program's own command, with the overrides of one job."""
        spec = getattr(__main__, "__spec__", None)
        program = ["-m", spec.name.removesuffix(".__main__")] if spec else [str(Path(sys.argv[0]).absolute())]
        given = get_args_parser().parse_known_args(sys.argv[1:])[0]
        flags = {name: getattr(given, name.replace("-", "_")) for name in ("config-path", "config-name", "config-dir")}
        of_sweep = r"[+~]*hydra(/(launcher|sweeper)\b|\.(launcher|sweeper|sweep|mode|run)\b)"
        of_hydra: Any = OmegaConf.to_container(self.config.hydra.overrides.hydra)  # each job resolves them itself
        writer = "++hydra.callbacks.gpu_pool_launcher"
        return [
            *(sys.executable, *program),
            *(word for name, value in flags.items() if value is not None for word in (f"--{name}", value)),
            *(*overrides, *(word for word in of_hydra if not re.match(of_sweep, word))),
            *("hydra.mode=RUN", f"hydra.run.dir={_quoted(folder)}"),
            *(f"{writer}._target_={__name__}.{WriteReturnValue.__name__}", f"{writer}.path={_quoted(return_path)}"),
        ]


class WriteReturnValue(Callback):
    """A Hydra callback in a job's process: writes what the job's function returned as JSON.

    What JSON does not know becomes null.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_job_end(self, config: Any, job_return: JobReturn, **_: Any) -> None:
        """Write it, whole or not at all."""
        if job_return.status != JobStatus.COMPLETED:
            return
        try:
            text = json.dumps(job_return.return_value)
        except (TypeError, ValueError):
            text = "null"
        incoming = self.path.with_suffix(".incoming")
        incoming.write_text(text)
        incoming.replace(self.path)


@dataclass
class _PlannedJob:
    """A job, and what Hydra's sweepers are to know of it."""

    job: Job
    overrides: list[str]
    job_return: JobReturn
    return_path: Path
    estimated_seconds: float | None
    identity: Any

    def forget(self) -> None:
        """Remove what the job returned before, if it is to be run."""
        if self.job.state == "queued":
            self.return_path.unlink(missing_ok=True)

    def return_value(self) -> Any:
        """What the job's function returned, as far as JSON knows it."""
        return json.loads(self.return_path.read_text()) if self.return_path.exists() else None

    def completed(self, failures: str) -> JobReturn:
        """What Hydra's sweepers take: the return value, or the error that says which jobs failed."""
        is_done = self.job.state in ("done", "done before")
        self.job_return.status = JobStatus.COMPLETED if is_done else JobStatus.FAILED
        self.job_return.return_value = self.return_value() if is_done else JobsFailedError(failures)
        return self.job_return


def _without_twins(planned: Sequence[_PlannedJob]) -> list[_PlannedJob]:
    """Leave out jobs with the configuration of an earlier one, which share its process and result."""
    by_folder: dict[Path, _PlannedJob] = {}
    by_identity: dict[str, _PlannedJob] = {}
    for one in planned:
        if isinstance(one.identity, str):
            one.job = by_identity.setdefault(one.identity, one).job
        twin = by_folder.setdefault(one.job.folder, one)
        if twin.identity != one.identity:
            raise LaunchError(
                f"Two jobs would share the folder {one.job.folder}: {' '.join(twin.overrides)}, and "
                f"{' '.join(one.overrides)}. Choose a hydra.sweep.subdir that tells them apart."
            )
        one.job = twin.job
    return list(by_folder.values())


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number} jobs"


def _forecast(unique: Sequence[_PlannedJob], num_slots: int, title: str) -> str:
    """What a dry run prints: each job, whether it is to be run, and how long it takes."""
    from hydra_plugins.gpu_pool_launcher._table import duration

    to_do = [one for one in unique if one.job.state == "queued"]
    lines = [f"{title}: {_jobs(len(unique))}, {len(to_do)} to do, {num_slots} at a time"]
    for one in unique:
        seconds = "" if one.estimated_seconds is None else f"  about {duration(one.estimated_seconds)}"
        lines.append(f"  {'to do      ' if one in to_do else 'done before'}  {one.job.name}{seconds}")
    known = [one.estimated_seconds for one in to_do if one.estimated_seconds is not None]
    if known:
        rest = f" (without {len(to_do) - len(known)} of unknown length)" if len(known) < len(to_do) else ""
        lines.append(f"about {duration(sum(known) / min(num_slots, len(to_do)))} in all{rest}")
    elif to_do:
        lines.append("how long it takes is not known: no such run has been finished yet")
    return "\n".join(lines)


def _quoted(path: Path) -> str:
    """A path for Hydra's override grammar."""
    escaped = re.sub(r'(\\*)"', lambda match: match[1] * 2 + '\\"', str(path))
    return f'"{escaped}"'
