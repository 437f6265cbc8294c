"""Jobs, each a process under a supervisor, on places that are given out as they become free."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from hydra_plugins.gpu_pool_launcher import _supervisor
from hydra_plugins.gpu_pool_launcher._slots import Slots, threads_per_slot

POLL_SECONDS = 0.02
# What tells a process that it is one of several of a training: a job is a training of its own.
DISTRIBUTED_VARIABLES = (
    *(
        "RANK",
        "LOCAL_RANK",
        "NODE_RANK",
        "GROUP_RANK",
        "ROLE_RANK",
        "WORLD_SIZE",
        "LOCAL_WORLD_SIZE",
        "GROUP_WORLD_SIZE",
    ),
    *("ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED"),
    *("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
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
    _said_from: int = 0  # where in its log this attempt begins

    @property
    def runs_for(self) -> float:
        """Seconds since its start, or that it took."""
        return time.time() - self.started if self.state == "running" else self.seconds

    def progress(self) -> dict[str, Any]:
        """What the job has written about itself since it was started, as far as it can be shown."""
        if self.progress_path is None:
            return {}
        try:
            if self.progress_path.stat().st_mtime < self.started:
                return {}
            content = json.loads(self.progress_path.read_text())
        except (OSError, ValueError):
            return {}
        if not isinstance(content, dict):
            return {}
        known = {key: content[key] for key in ("epoch", "num_epochs") if isinstance(content.get(key), (int, float))}
        metrics = content.get("metrics")
        return {**known, "metrics": metrics if isinstance(metrics, dict) else {}}

    def outcome(self) -> str:
        """How it ended, in words."""
        if self.returncode is None or self.returncode >= 0:
            return f"exit code {self.returncode}"
        return f"killed by {signal.Signals(-self.returncode).name}"

    def last_lines(self, number: int = 5) -> list[str]:
        """The end of what it said since it was started."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 8192, self._said_from))
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
        self.environment = {
            key: value
            for key, value in environment.items()
            if key not in DISTRIBUTED_VARIABLES and not key.startswith("TORCHELASTIC_")
        }
        self.environment["PYTHONUNBUFFERED"] = "1"  # a job's log is to be read while it runs
        if threads := threads_per_slot(slots):
            self.environment.setdefault("OMP_NUM_THREADS", str(threads))
        self.fail_fast = fail_fast
        self.grace_seconds = grace_seconds
        self.received = 0  # a signal
        self._running: list[Job] = []
        self._stopping = False

    def run(self, jobs: Sequence[Job], watch: Callable[[str], None]) -> None:
        """Run the queued ones among the jobs, calling `watch` all the while with what it waits for, if it is not usual.

        Call it from the main thread.

        On SIGINT, SIGTERM or SIGHUP the jobs are asked to stop, and the rest is left; `received` is the signal.
        """
        queue = [job for job in jobs if job.state == "queued"]
        with self._signals_noted():
            while queue or self._running:
                self._collect()
                if self._stopping:
                    queue = []
                for job in list(queue):
                    if (places := self.slots.take(job.num_places)) is None:
                        continue
                    if self._start(job, places):
                        queue.remove(job)
                    else:
                        self.slots.give_back(places)
                watch(self._waits_for(queue))
                if queue or self._running:
                    time.sleep(POLL_SECONDS)
        watch("")

    def _waits_for(self, queue: Sequence[Job]) -> str:
        if self._stopping and self._running:
            return f"stopping: the jobs have {self.grace_seconds:g} s to save; one more Ctrl-C ends them at once"
        if queue and not self._running:
            return f"waiting: another sweep {'has the GPUs, or ' if self.slots.gpus else ''}runs these jobs"
        return ""

    def _start(self, job: Job, places: list[str]) -> bool:
        """Start the job, unless another sweep runs it: its processes have its log open, and with it the log's lock."""
        environment = dict(self.environment)
        if self.slots.gpus:
            if "CUDA_VISIBLE_DEVICES" not in environment:  # then the numbers are those of nvidia-smi
                environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(places)
        job.log_path.parent.mkdir(parents=True, exist_ok=True)
        supervisor = [sys.executable, "-S", "-E", _supervisor.__file__, str(os.getpid()), str(self.grace_seconds)]
        with job.log_path.open("ab") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} on {','.join(places)}: {job.name}\n".encode())
            log.flush()
            job._said_from = log.tell()
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

    def _collect(self) -> None:
        for job in list(self._running):
            assert job._process is not None
            if (returncode := job._process.poll()) is None:
                continue
            job.returncode, job.seconds = returncode, time.time() - job.started
            job.state = "done" if returncode == 0 else "stopped" if self._stopping else "failed"
            self._running.remove(job)
            self.slots.give_back(job.places)
            if job.state == "failed" and self.fail_fast:
                self.stop()

    def stop(self) -> None:
        """Ask the running jobs to stop; the second time, kill them."""
        self._stopping = True
        for job in self._running:
            assert job._process is not None
            job._process.terminate()

    @contextmanager
    def _signals_noted(self) -> Iterator[None]:
        def note(number: int, frame: FrameType | None) -> None:
            self.received = number
            self.stop()

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores one
        before = {number: signal.signal(number, note) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
