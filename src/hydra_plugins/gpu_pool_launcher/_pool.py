"""Runs jobs, each a process under a supervisor, on places that are given out as they become free."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra_plugins.gpu_pool_launcher import _supervisor
from hydra_plugins.gpu_pool_launcher._slots import Slots

POLL_SECONDS = 0.02
# Environment variables that tell a process that it is one of several of a training: a job is a training of its own.
DISTRIBUTED = re.compile(
    r"((LOCAL|NODE|GROUP|ROLE)_)?RANK|((LOCAL|GROUP|ROLE)_)?WORLD_SIZE|MASTER_(ADDR|PORT)|PL_GLOBAL_SEED"
    r"|SLURM_(NTASKS|PROCID|LOCALID|NODEID)|TORCHELASTIC_.*"
)


@dataclass
class Job:
    """A command with a folder, and what became of it.

    Args:
        num_places: GPUs that it needs, or CPU slots where there is no GPU.
        progress_path: a JSON file that it may write: see the README of the launcher.
    """

    number: int
    name: str
    folder: Path
    command: Sequence[str]
    log_path: Path
    num_places: int = 1
    progress_path: Path | None = None
    state: str = "queued"  # queued, running, done, failed, stopped; done before where there was nothing to do
    places: list[str] = field(default_factory=list)
    started: float = 0.0
    seconds: float = 0.0
    returncode: int | None = None
    _process: "subprocess.Popen[bytes] | None" = None
    _log_start: int = 0  # where in its log this attempt begins

    @property
    def runs_for(self) -> float:
        """Seconds since it started; where it has ended, the seconds it took."""
        return time.time() - self.started if self.state == "running" else self.seconds

    def progress(self) -> dict[str, Any]:
        """State, epoch, num_epochs and metrics, as far as the job has written them properly since it was started."""
        try:
            if self.progress_path is None or self.progress_path.stat().st_mtime < self.started:
                return {}
            content = json.loads(self.progress_path.read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(content, dict):
            return {}
        known = {key: content[key] for key in ("epoch", "num_epochs") if isinstance(content.get(key), (int, float))}
        metrics = content.get("metrics")
        known["state"] = content.get("state")
        return {**known, "metrics": metrics if isinstance(metrics, dict) else {}}

    def is_paused(self) -> bool:
        """Whether the job says that it has ended before its end, to be run again."""
        return self.state in ("done", "done before") and self.progress().get("state") == "paused"

    def share(self) -> float:
        """How much of the job is over, from 0 to 1."""
        if self.state != "running":
            return float(self.state not in ("queued", "stopped"))
        progress = self.progress()
        epoch, num_epochs = progress.get("epoch"), progress.get("num_epochs")
        return min(max(epoch / num_epochs, 0.0), 1.0) if epoch and num_epochs else 0.0

    def seconds_left(self) -> float | None:
        """Seconds until a running job ends, by its progress; None where that is not known."""
        share = self.share() if self.state == "running" else 0
        return self.runs_for * (1 - share) / share if share else None

    def outcome(self) -> str:
        """How it ended, in words."""
        if self.returncode is None or self.returncode >= 0:
            return f"exit code {self.returncode}"
        return f"killed by {signal.Signals(-self.returncode).name}"

    def last_lines(self, number: int = 5) -> list[str]:
        """The last lines that it has printed since it was started."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 8192, self._log_start))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-number:]


class Pool:
    """Runs jobs, each on places of its own, the next as soon as there are enough free ones.

    Args:
        fail_fast: stop the others when one fails.
        grace_seconds: between asking a job to stop (SIGTERM) and killing it.
    """

    def __init__(
        self, slots: Slots, environment: Mapping[str, str], fail_fast: bool = False, grace_seconds: float = 60
    ) -> None:
        self.slots = slots
        self.environment = {key: value for key, value in environment.items() if not DISTRIBUTED.fullmatch(key)}
        self.environment["PYTHONUNBUFFERED"] = "1"  # a job's log can be read while it runs
        if threads := slots.threads_per_job:
            self.environment.setdefault("OMP_NUM_THREADS", str(threads))
        self.fail_fast = fail_fast
        self.grace_seconds = grace_seconds
        self.received_signal = 0
        self._running: list[Job] = []
        self._stopping = False

    def run(self, jobs: Sequence[Job], watch: Callable[[str], None]) -> None:
        """Run the queued jobs; call it from the main thread.

        On SIGINT, SIGTERM or SIGHUP the running jobs are asked to stop, and the others are not started.

        Args:
            watch: is called all the while, with what the pool waits for where that is unusual, else with "".
        """
        for _ in self.run_each(jobs, lambda: None, watch):
            pass

    def run_each(
        self, jobs: Sequence[Job], draw: Callable[[], Job | None], watch: Callable[[str], None]
    ) -> Iterator[Job]:
        """Run the queued jobs, then those that are drawn, and yield each once it has ended; see `run`.

        Args:
            draw: gives a further job, or None where there is none before another has ended. It is called when a place
                is free and all jobs that have ended were yielded.
        """
        queue = [job for job in jobs if job.state == "queued"]
        with self._signals_noted():
            while True:
                yield from self._collect()
                queue = [] if self._stopping else [job for job in queue if not self._start(job)]
                while not (self._stopping or queue) and self.slots.has_free() and (job := draw()) is not None:
                    if job.state != "queued":
                        yield job
                    elif not self._start(job):
                        queue.append(job)
                watch(self._waits_for(queue))
                if not (queue or self._running):
                    break
                time.sleep(POLL_SECONDS)
        watch("")

    def _waits_for(self, queue: Sequence[Job]) -> str:
        if self._stopping and self._running:
            return f"stopping: the jobs have {self.grace_seconds:g} s to save; one more Ctrl-C ends them at once"
        if queue and not self._running:
            return f"waiting: another sweep {'has the GPUs, or ' if self.slots.num_gpus else ''}runs these jobs"
        return ""

    def _start(self, job: Job) -> bool:
        """Start the job, if there are places, and no other sweep runs it.

        A running job's processes have its log open, and with it the log's lock.
        """
        if (places := self.slots.take(job.num_places)) is None:
            return False
        environment = dict(self.environment)
        if self.slots.num_gpus:
            if "CUDA_VISIBLE_DEVICES" not in environment:  # then the numbers are those of nvidia-smi
                environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(places)
        job.log_path.parent.mkdir(parents=True, exist_ok=True)
        supervisor = [sys.executable, "-S", "-E", _supervisor.__file__, str(os.getpid()), str(self.grace_seconds)]
        with job.log_path.open("ab") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.slots.give_back(places)
                return False
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} on {','.join(places)}: {job.name}\n".encode())
            log.flush()
            job._log_start = log.tell()
            job._process = subprocess.Popen(
                [*supervisor, *job.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # the terminal's Ctrl-C reaches the sweep alone
            )
        job.state, job.places, job.started = "running", places, time.time()
        self._running.append(job)
        return True

    def _collect(self) -> list[Job]:
        """The jobs that have ended since; their places are free."""
        ended = [job for job in self._running if job._process is not None and job._process.poll() is not None]
        for job in ended:
            assert job._process is not None
            job.returncode, job.seconds = job._process.returncode, time.time() - job.started
            job.state = "done" if job.returncode == 0 else "stopped" if self._stopping else "failed"
            self._running.remove(job)
            self.slots.give_back(job.places)
            if job.state == "failed" and self.fail_fast:
                self._stop()
        return ended

    def _stop(self) -> None:
        """Ask the running jobs to stop; the second time, kill them."""
        self._stopping = True
        for job in self._running:
            assert job._process is not None
            job._process.terminate()

    def _note_signal(self, number: int, _: Any) -> None:
        self.received_signal = number
        self._stop()

    @contextmanager
    def _signals_noted(self) -> Iterator[None]:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        previous = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}  # as of nohup
        for number in previous:
            signal.signal(number, self._note_signal)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
