"""What a person sees of a sweep: a live table in a terminal, and then its results; a line an event elsewhere."""

import os
import re
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hydra_plugins.gpu_pool_launcher._pool import Job

REFRESH_SECONDS = 0.5
NUM_QUEUED_SHOWN = 3
NUM_FAILED_SHOWN = 3
NUM_RESULTS_SHOWN = 20
NARROW = 80  # columns: with fewer, the table says less


class Table:
    """Shows the jobs; call `update` often."""

    def __init__(self, jobs: Sequence[Job], num_slots: int, title: str, metric: str | None = None) -> None:
        self.jobs = jobs
        self.num_slots = num_slots
        self.title = title
        self.metric = metric
        self.shared, self.short = short_names([job.name for job in jobs])
        self._said: dict[int, str] = {}
        self._notice = ""
        self._drawn = 0.0
        self._live: Any = None
        if sys.stdout.isatty():
            from rich.console import Console
            from rich.live import Live

            # On a screen of its own: elsewhere a terminal that becomes narrower leaves lines that nothing wipes out.
            self._live = Live(console=Console(), auto_refresh=False, screen=True)

    def __enter__(self) -> "Table":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def print_results(self, returned: Mapping[int, Any]) -> None:
        """Print what became of the jobs, in a terminal: elsewhere each has had its line.

        Args:
            returned: what the jobs returned, by their numbers; shown where they have no such metric.
        """
        if self._live:
            self._live.console.print(self._results(returned))

    def _results(self, returned: Mapping[int, Any]) -> Any:
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        begun = [job for job in self.jobs if job.state != "queued"]
        done = [job for job in begun if job.state in ("done", "done before")]
        values = {job.number: value for job in done if (value := self._value(job, returned)) is not None}
        highest = max(values, key=lambda number: values[number]) if len(set(values.values())) > 1 else None
        listed = [job for job in begun[:NUM_RESULTS_SHOWN] if job.number != highest]
        listed = [job for job in begun if job in listed or job.number == highest]
        table = RichTable(box=None, pad_edge=False, header_style="dim")
        for heading in ("job", "", self._heading(), "took", ""):
            table.add_column(heading, overflow="fold", no_wrap=heading != "job")
        for job in listed:
            took = duration(job.seconds) if job.seconds else ""
            shown = f"{values[job.number]:.4f}" if job.number in values else ""
            mark = "highest" if job.number == highest else ""  # whether that is good, only the application knows
            table.add_row(self.short[job.name], job.state, shown, took, mark)
        below = [Text(f"and {more} more", style="dim")] if (more := len(begun) - len(listed)) else []
        return Group(self._headline(), *self._shared_line(), *([table] if begun else []), *below)

    def _value(self, job: Job, returned: Mapping[int, Any]) -> float | None:
        for value in (job.progress().get("metrics", {}).get(self.metric), returned.get(job.number)):
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:  # not NaN
                return float(value)
        return None

    def _heading(self) -> str:
        return (self.metric or "returned").rpartition("/")[2]

    def _headline(self, left: float | None = None) -> Any:
        from rich.text import Text

        by_state = {state: sum(job.state == state for job in self.jobs) for state in STATES}
        counts = ", ".join(f"{number} {state}" for state, number in by_state.items() if number)
        return Text(f"{self.title}: {counts}" + (f", about {duration(left)} left" if left else ""), overflow="fold")

    def _shared_line(self) -> list[Any]:
        from rich.text import Text

        return [Text(f"all jobs: {self.shared}", style="dim", overflow="fold")] if self.shared else []

    def update(self, notice: str = "") -> None:
        """Draw, if it is time; say what has changed.

        Args:
            notice: what a person should know beside the jobs' states.
        """
        is_news, self._notice = notice not in ("", self._notice), notice
        if self._live:
            if time.monotonic() - self._drawn > REFRESH_SECONDS:
                self._drawn = time.monotonic()
                self._live.update(self._render(self._live.console.width), refresh=True)
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

    def _render(self, columns: int = NARROW) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table as RichTable
        from rich.text import Text

        by_state = {state: [job for job in self.jobs if job.state == state] for state in STATES}
        wide = columns >= NARROW
        headings = ["job", "on", "epoch", *([self._heading()] if self.metric else []), *(["runs for"] if wide else [])]
        table = RichTable(box=None, pad_edge=False, header_style="dim")
        for heading in [*headings, "left"]:
            table.add_column(heading, overflow="fold", no_wrap=heading != "job")
        for job in by_state["running"]:
            progress = job.progress()
            epochs = f"{progress['epoch']}/{progress['num_epochs']}" if {"epoch", "num_epochs"} <= {*progress} else ""
            remaining = _seconds_left(job)
            table.add_row(
                self.short[job.name],
                ",".join(job.places),
                epochs,
                *([self._metric_of(progress)] if self.metric else []),
                *([duration(job.runs_for)] if wide else []),
                "" if remaining is None else duration(remaining),
            )
        for job in by_state["queued"][:NUM_QUEUED_SHOWN]:
            table.add_row(Text(self.short[job.name], style="dim"))
        if (more := len(by_state["queued"]) - NUM_QUEUED_SHOWN) > 0:
            table.add_row(Text(f"and {more} more", style="dim"))
        failed = by_state["failed"]
        below = [
            Text(f"failed: {os.path.relpath(job.log_path)}", style="red", overflow="fold")
            for job in failed[-NUM_FAILED_SHOWN:]
        ]
        if (more := len(failed) - NUM_FAILED_SHOWN) > 0:
            below.insert(0, Text(f"failed: {more} more", style="red"))
        below += [Text(self._notice, style="yellow")] if self._notice else []
        done = sum(_share(job) for job in self.jobs)
        bar = RichTable.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=len(self.jobs), completed=done, width=60))
        rows = [table] if table.row_count else []
        return Group(self._headline(self.seconds_left()), bar, *self._shared_line(), *rows, *below)

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


def short_names(names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What all names share, and each name without it: its words between dashes, and a hash where it tells nothing more.

    >>> short_names(["lenet-lr0.1-seed0-01234567", "lenet-lr1e-05-seed0-89abcdef"])
    ('lenet seed0', {'lenet-lr0.1-seed0-01234567': 'lr0.1', 'lenet-lr1e-05-seed0-89abcdef': 'lr1e-05'})
    """
    words = {name: re.split(r"(?<!\de)-", name) for name in dict.fromkeys(names)}
    bare = {name: parts[:-1] if re.fullmatch("[0-9a-f]{8}", parts[-1]) else parts for name, parts in words.items()}
    if len({tuple(parts) for parts in bare.values()}) < len(bare):
        bare = words
    first, *others = bare.values()
    shared = [word for word in first if all(word in parts for parts in others)] if others else []
    own = {name: " ".join(word for word in parts if word not in shared) for name, parts in bare.items()}
    short = {name: text or " ".join(shared) for name, text in own.items()}
    if len(set(short.values())) < len(short):
        return "", {name: name for name in names}
    return " ".join(shared), short


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 20 s, 5 h 07 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
