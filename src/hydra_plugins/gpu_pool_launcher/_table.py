"""What a person sees of a sweep: a live table in a terminal, a line an event elsewhere."""

import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hydra_plugins.gpu_pool_launcher._pool import Job

REFRESH_SECONDS = 0.5
NUM_QUEUED_SHOWN = 3


class Table:
    """Shows the jobs; call `update` often."""

    def __init__(self, jobs: Sequence[Job], num_slots: int, title: str, metric: str | None = None) -> None:
        self.jobs = jobs
        self.num_slots = num_slots
        self.title = title
        self.metric = metric
        self._said: dict[int, str] = {}
        self._notice = ""
        self._drawn = 0.0
        self._live: Any = None
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(), auto_refresh=False)

    def __enter__(self) -> "Table":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.update(self._render(), refresh=True)
            self._live.stop()

    def update(self, notice: str = "") -> None:
        """Draw, if it is time; say what has changed.

        Args:
            notice: what a person should know beside the jobs' states.
        """
        is_news, self._notice = notice not in ("", self._notice), notice
        if self._live:
            if time.monotonic() - self._drawn > REFRESH_SECONDS:
                self._drawn = time.monotonic()
                self._live.update(self._render(), refresh=True)
            return
        for job in self.jobs:
            if self._said.get(job.number, "queued") != job.state:
                self._said[job.number] = job.state
                print(self._line(job), flush=True)
        if is_news:
            print(notice, flush=True)

    def _line(self, job: Job) -> str:
        over = sum(other.state in ("done before", "done", "failed") for other in self.jobs)
        how = {
            "running": f"started on {','.join(job.places)}",
            "done": f"done in {duration(job.seconds)}{self._reached(job)}",
            "done before": f"done before{self._reached(job)}",
            "failed": f"failed after {duration(job.seconds)} ({job.outcome()}): {os.path.relpath(job.log_path)}",
            "stopped": f"stopped after {duration(job.seconds)}",
        }
        return f"[{over}/{len(self.jobs)}] {job.name}: {how[job.state]}"

    def _metric_of(self, progress: Mapping[str, Any]) -> str:
        value = progress.get("metrics", {}).get(self.metric)
        return f"{value:.4f}" if isinstance(value, (int, float)) else ""

    def _reached(self, job: Job) -> str:
        value = self._metric_of(job.progress())
        return f" {self.metric} {value}" if value else ""

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table as RichTable
        from rich.text import Text

        by_state = {state: [job for job in self.jobs if job.state == state] for state in STATES}
        counts = ", ".join(f"{len(jobs)} {state}" for state, jobs in by_state.items() if jobs)
        left = self.seconds_left()
        table = RichTable(box=None, pad_edge=False, header_style="dim")
        for heading in ("job", "on", "epoch", self.metric or "", "runs for", "left"):
            table.add_column(heading, overflow="fold", no_wrap=heading != "job")
        for job in by_state["running"]:
            progress = job.progress()
            epochs = f"{progress['epoch']}/{progress['num_epochs']}" if {"epoch", "num_epochs"} <= {*progress} else ""
            remaining = _seconds_left(job)
            table.add_row(
                job.name,
                ",".join(job.places),
                epochs,
                self._metric_of(progress),
                duration(job.runs_for),
                "" if remaining is None else duration(remaining),
            )
        for job in by_state["queued"][:NUM_QUEUED_SHOWN]:
            table.add_row(Text(job.name, style="dim"), "", "", "", "", "")
        if (more := len(by_state["queued"]) - NUM_QUEUED_SHOWN) > 0:
            table.add_row(Text(f"and {more} more", style="dim"), "", "", "", "", "")
        below = [
            Text(f"failed: {job.name}: {os.path.relpath(job.log_path)}", style="red") for job in by_state["failed"]
        ]
        below += [Text(self._notice, style="yellow")] if self._notice else []
        heading = f"{self.title}: {counts}" + (f", about {duration(left)} left" if left else "")
        done = sum(_share(job) for job in self.jobs)
        bar = RichTable.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=len(self.jobs), completed=done, width=60))
        return Group(Text(heading), bar, *([table] if table.row_count else []), *below)

    def seconds_left(self) -> float | None:
        """Of the whole, if every job to come takes as long as the median of those whose length is known."""
        known = [job.seconds for job in self.jobs if job.state == "done"]
        known += [job.runs_for + left for job in self.jobs if (left := _seconds_left(job)) is not None]
        if not known:
            return None
        typical = statistics.median(known)
        running = [job for job in self.jobs if job.state == "running"]
        lefts = [_seconds_left(job) for job in running]
        to_come = sum(
            max(typical - job.runs_for, 0) if left is None else left for job, left in zip(running, lefts, strict=True)
        )
        to_come += typical * sum(job.state == "queued" for job in self.jobs)
        return to_come / max(min(self.num_slots, len(self.jobs)), 1)


STATES = ("done before", "done", "running", "queued", "failed", "stopped")


def _share(job: Job) -> float:
    """How much of the job is over, from 0 to 1."""
    if job.state != "running":
        return float(job.state not in ("queued", "stopped"))
    progress = job.progress()
    epoch, num_epochs = progress.get("epoch"), progress.get("num_epochs")
    return min(max(epoch / num_epochs, 0.0), 1.0) if epoch and num_epochs else 0.0


def _seconds_left(job: Job) -> float | None:
    share = _share(job) if job.state == "running" else 0
    return job.runs_for * (1 - share) / share if share else None


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 20 s, 5 h 07 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
