"""`hydra/launcher=gpu_pool`: uses every GPU of the machine, a job on each, the next as soon as one is free."""

import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

import __main__

RETURN_VALUE = "hydra_plugins.gpu_pool_launcher.return_value.WriteReturnValue"


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
    done_file: str | None = None  # resolved in each job's configuration; a job in whose folder it is has been done
    identity: Any = None  # resolved in each job's configuration; jobs of one identity are one job
    estimated_seconds: Any = None  # of a job, resolved in its own configuration; for dry_run
    closing_words: str | None = None  # to be said at the end of a sweep without failures


ConfigStore.instance().store(group="hydra/launcher", name="gpu_pool", node=GpuPoolConf, provider="gpu_pool_launcher")


class LaunchError(ValueError):
    """A sweep cannot be started as it was asked for; the text says why."""


class JobsFailedError(RuntimeError):
    """Some jobs of a sweep failed; the others were run."""


class GpuPoolLauncher(Launcher):
    """Starts each job as an ordinary single run of the same program, in a fresh process."""

    def __init__(self, **options: Any) -> None:
        self.options = GpuPoolConf(**options)
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra gives; the task function is called in the jobs' own processes."""
        self.config = config
        self.hydra_context = hydra_context

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose and check all jobs, then run them; what was done before is not run again.

        Raises:
            LaunchError: two jobs share a folder, one needs more GPUs than there are, or there is no place for any.
            SystemExit: a signal came; the jobs were stopped. After a dry run, with code 0.
        """
        from hydra_plugins.gpu_pool_launcher._pool import Pool
        from hydra_plugins.gpu_pool_launcher._slots import Slots, find_gpus
        from hydra_plugins.gpu_pool_launcher._table import Table

        setup_globals()
        assert self.config is not None
        for key in ("jobs_per_gpu", "cpu_slots"):
            if (number := getattr(self.options, key)) < 1:
                raise LaunchError(f"hydra.launcher.{key} must be at least 1, got {number}.")
        sweep_dir = Path(str(self.config.hydra.sweep.dir)).absolute()
        slots = Slots(find_gpus(os.environ), self.options.jobs_per_gpu, self.options.cpu_slots)
        prepared = [
            self._prepare(list(overrides), initial_job_idx + number, sweep_dir, slots.num_places, bool(slots.gpus))
            for number, overrides in enumerate(job_overrides)
        ]
        unique = _without_twins(prepared)
        jobs = [one.job for one in unique]
        title = os.path.relpath(sweep_dir)
        if self.options.dry_run:
            print(_plan(unique, len(slots), title))
            raise SystemExit(0)
        for one in unique:
            if one.job.state == "queued":
                one.return_path.unlink(missing_ok=True)
        pool = Pool(slots, os.environ, self.options.fail_fast, self.options.grace_seconds)
        with Table(jobs, len(slots), title, self.options.progress_metric) as table:
            pool.run(jobs, table.update)
        table.print_results({one.job.number: one.return_value() for one in unique})
        if pool.received:
            print(f"{signal.Signals(pool.received).name}: stopped. The same command goes on.", file=sys.stderr)
            raise SystemExit(128 + pool.received)
        failed = [job for job in jobs if job.state == "failed"]
        for job in failed:
            said = "".join(f"\n    {line}" for line in job.last_lines())
            print(f"\n{job.name} failed ({job.outcome()}); its log is {os.path.relpath(job.log_path)}{said}")
        if not failed and self.options.closing_words:
            print(self.options.closing_words)
        left_out = sum(job.state in ("queued", "stopped") for job in jobs)
        summary = f"{len(failed)} of {_jobs(len(jobs))} failed: see above."
        summary += f" {left_out} more were stopped or not begun; the same command runs them." if left_out else ""
        return [one.returned(summary) for one in prepared]

    def _prepare(
        self, overrides: list[str], number: int, sweep_dir: Path, num_places: int, on_gpus: bool
    ) -> "_Prepared":
        from hydra_plugins.gpu_pool_launcher._pool import Job

        assert self.config is not None
        assert self.hydra_context is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)
        try:
            subdir = str(config.hydra.sweep.subdir)
            wanted = config.hydra.launcher.gpus_per_job
            done_file = config.hydra.launcher.done_file
            identity = config.hydra.launcher.identity
            estimated = config.hydra.launcher.estimated_seconds if self.options.dry_run else None
        finally:
            HydraConfig.instance().cfg = before
        num_gpus = 1 if wanted == "auto" else int(wanted)
        if num_gpus < 1:
            raise LaunchError(f"hydra.launcher.gpus_per_job must be auto or at least 1, got {num_gpus} of {subdir}.")
        if on_gpus and num_gpus > num_places:
            raise LaunchError(f"{subdir} needs {num_gpus} GPUs, and there are {num_places}.")
        folder = sweep_dir / subdir
        logs = sweep_dir / "logs"
        flat = subdir.replace("/", "_")
        return_path = logs / f"{flat}.return.json"
        job = Job(
            number,
            subdir,
            folder,
            self._command(overrides, folder, return_path),
            logs / f"{flat}.log",
            num_places=num_gpus if on_gpus else 1,
            progress_path=folder / self.options.progress_file if self.options.progress_file else None,
        )
        if done_file and (folder / done_file).exists() and return_path.exists():
            job.state = "done before"
        with open_dict(config):
            hydra_config = config.pop("hydra")
        return _Prepared(job, overrides, config, hydra_config, return_path, estimated, identity or config)

    def _command(self, overrides: Sequence[str], folder: Path, return_path: Path) -> list[str]:
        assert self.config is not None
        spec = getattr(__main__, "__spec__", None)
        as_module = ["-m", spec.name.removesuffix(".__main__")] if spec is not None else []
        program = as_module or [str(Path(sys.argv[0]).absolute())]
        flags = get_args_parser().parse_known_args(sys.argv[1:])[0]
        given = {
            "--config-path": flags.config_path,
            "--config-name": flags.config_name,
            "--config-dir": flags.config_dir,
        }
        kept = [word for flag, value in given.items() if value is not None for word in (flag, value)]
        of_hydra = [
            word
            for word in OmegaConf.to_container(self.config.hydra.overrides.hydra)  # type: ignore[union-attr]
            if not re.match(r"[+~]*hydra(/(launcher|sweeper)\b|\.(launcher|sweeper|sweep|mode|run)\b)", str(word))
        ]
        return_value = "++hydra.callbacks.gpu_pool_launcher"
        return [
            *(sys.executable, *program, *kept, *overrides, *map(str, of_hydra)),
            *("hydra.mode=RUN", f"hydra.run.dir={_quoted(folder)}"),
            *(f"{return_value}._target_={RETURN_VALUE}", f"{return_value}.path={_quoted(return_path)}"),
        ]


@dataclass
class _Prepared:
    """A job with what Hydra's sweepers want to know of it."""

    job: Any
    overrides: list[str]
    config: DictConfig
    hydra_config: DictConfig
    return_path: Path
    estimated_seconds: float | None
    identity: Any

    def return_value(self) -> Any:
        """What the job's function returned, as far as JSON knows it."""
        return json.loads(self.return_path.read_text()) if self.return_path.exists() else None

    def returned(self, failures: str) -> JobReturn:
        done = self.job.state in ("done", "done before")
        result = JobReturn(self.overrides, self.config, self.hydra_config, str(Path.cwd()), self.job.name)
        result.status = JobStatus.COMPLETED if done else JobStatus.FAILED
        if done:
            result.return_value = self.return_value()
        else:
            result.return_value = JobsFailedError(failures)
        return result


def _without_twins(prepared: Sequence[_Prepared]) -> list[_Prepared]:
    """Leave out jobs with the configuration of an earlier one, which share its process and result."""
    first: dict[Path, _Prepared] = {}
    known: dict[str, _Prepared] = {}
    for one in prepared:
        if isinstance(one.identity, str):
            one.job = known.setdefault(one.identity, one).job
        twin = first.setdefault(one.job.folder, one)
        if twin.identity != one.identity:
            raise LaunchError(
                f"Two jobs would share the folder {one.job.folder}: {' '.join(twin.overrides)}, and "
                f"{' '.join(one.overrides)}. Choose a hydra.sweep.subdir that tells them apart."
            )
        one.job = twin.job
    return list(first.values())


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number} jobs"


def _plan(unique: Sequence[_Prepared], num_slots: int, title: str) -> str:
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
