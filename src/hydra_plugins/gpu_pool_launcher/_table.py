"""What a person sees of a sweep: in a terminal a live table and then the results, elsewhere a line for each event."""

import math
import os
import re
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import rich.table
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from hydra_plugins.gpu_pool_launcher._pool import Job

STATES = ("done before", "done", "running", "queued", "failed", "stopped")
REFRESH_SECONDS = 0.5
NUM_QUEUED_SHOWN = 3
NUM_FAILED_SHOWN = 3
NUM_RESULTS_SHOWN = 20
NARROW = 80  # columns of a terminal: with fewer, the table leaves a column out


class Table:
    """Shows the jobs; call `update` often.

    Args:
        jobs: they may become more meanwhile.
        num_expected: how many there will be, where they become more.
    """

    def __init__(
        self, jobs: Sequence[Job], num_slots: int, title: str, metric: str | None = None, num_expected: int = 0
    ) -> None:
        self.jobs = jobs
        self.num_slots = num_slots
        self.title = title
        self.metric = metric
        self.num_expected = num_expected
        self._printed_states: dict[int, str] = {}
        self._named: tuple[list[str], tuple[str, dict[str, str]]] = ([], ("", {}))
        self._notice = ""
        self._drawn = 0.0
        # On a screen of its own: elsewhere a terminal that becomes narrower leaves lines that nothing wipes out.
        self._live = Live(console=Console(), auto_refresh=False, screen=True) if sys.stdout.isatty() else None

    @property
    def _names(self) -> tuple[str, dict[str, str]]:
        """What all jobs' names share, and each without it."""
        if (names := [job.name for job in self.jobs]) != self._named[0]:
            self._named = (names, short_names(names))
        return self._named[1]

    @property
    def _num_jobs(self) -> int:
        return max(len(self.jobs), self.num_expected)

    def __enter__(self) -> "Table":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, notice: str = "") -> None:
        """Draw the table where it is time to, or print a line for each job whose state has changed.

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
            if job.state not in ("queued", self._printed_states.get(job.number)):
                self._printed_states[job.number] = job.state
                print(self._line(job), flush=True)
        if is_news:
            print(notice, flush=True)

    def print_results(self, returned: Mapping[int, Any]) -> None:
        """Print what became of the jobs, in a terminal: elsewhere each has had its line.

        Args:
            returned: what the jobs returned, by their numbers; shown where they have no such metric.
        """
        if self._live:
            self._live.console.print(self._results(returned))

    def _line(self, job: Job) -> str:
        """The state that a job has come to, for a log file."""
        over = sum(other.state in ("done before", "done", "failed") for other in self.jobs)
        value = self._metric_of(job)
        reached = f" {self.metric} {value}" if value else ""
        details = {
            "running": f"started on {','.join(job.places)}",
            "done": f"{'paused' if job.is_paused() else 'done'} in {duration(job.seconds)}{reached}",
            "done before": f"done before{reached}",
            "failed": f"failed after {duration(job.seconds)} ({job.outcome()}): {os.path.relpath(job.log_path)}",
            "stopped": f"stopped after {duration(job.seconds)}",
        }
        return f"[{over}/{self._num_jobs}] {job.name}: {details[job.state]}"

    def _metric_of(self, job: Job) -> str:
        value = job.progress().get("metrics", {}).get(self.metric)
        return f"{value:.4f}" if isinstance(value, (int, float)) else ""

    def _heading(self) -> str:
        return (self.metric or "returned").rpartition("/")[2]

    def _above(self, seconds_left: float | None = None) -> list[Text]:
        """How many jobs are in which state; then the part of their names that all share, if there is any."""
        numbers = {state: sum(job.state == state for job in self.jobs) for state in STATES}
        counts = ", ".join(f"{number} {state}" for state, number in numbers.items() if number)
        left = f", about {duration(seconds_left)} left" if seconds_left else ""
        common = self._names[0]
        shared = [Text(f"all jobs: {common}", style="dim", overflow="fold")] if common else []
        return [Text(f"{self.title}: {counts}{left}", overflow="fold"), *shared]

    def _render(self, columns: int = NARROW) -> Group:
        """The live table: the jobs that run, the next in the queue, and the logs of those that failed."""
        running, queued, failed = (
            [job for job in self.jobs if job.state == state] for state in ("running", "queued", "failed")
        )
        optional = ["metric"] * (self.metric is not None) + ["runs for"] * (columns >= NARROW)
        shown = ["job", "on", "epoch", *optional, "left"]
        table = _empty_table(self._heading() if name == "metric" else name for name in shown)
        for job in running:
            progress, seconds_left = job.progress(), job.seconds_left()
            cells = {
                "job": self._names[1][job.name],
                "on": ",".join(job.places),
                "epoch": "{epoch}/{num_epochs}".format(**progress) if {"epoch", "num_epochs"} <= {*progress} else "",
                "metric": self._metric_of(job),
                "runs for": duration(job.runs_for),
                "left": "" if seconds_left is None else duration(seconds_left),
            }
            table.add_row(*(cells[name] for name in shown))
        for job in queued[:NUM_QUEUED_SHOWN]:
            table.add_row(Text(self._names[1][job.name], style="dim"))
        if (more := len(queued) - NUM_QUEUED_SHOWN) > 0:
            table.add_row(Text(f"and {more} more", style="dim"))
        below = [f"failed: {more} more"] if (more := len(failed) - NUM_FAILED_SHOWN) > 0 else []
        below += [f"failed: {os.path.relpath(job.log_path)}" for job in failed[-NUM_FAILED_SHOWN:]]
        bar = rich.table.Table.grid()  # a bar alone does not end its line
        bar.add_row(ProgressBar(total=self._num_jobs, completed=sum(job.share() for job in self.jobs), width=60))
        headline, *shared = self._above(self.seconds_left())
        parts: list[RenderableType] = [headline, bar, *shared, *([table] if table.row_count else [])]
        parts += [Text(text, style="red", overflow="fold") for text in below]
        parts += [Text(self._notice, style="yellow")] if self._notice else []
        return Group(*parts)

    def _results(self, returned: Mapping[int, Any]) -> Group:
        """What became of the jobs that were begun, the highest value marked."""
        begun = [job for job in self.jobs if job.state != "queued"]
        reached = {job.number: self._value(job, returned) for job in begun if job.state in ("done", "done before")}
        values = {number: value for number, value in reached.items() if value is not None}
        highest = max(values, key=lambda number: values[number]) if len(set(values.values())) > 1 else None
        listed = [job for i, job in enumerate(begun) if i < NUM_RESULTS_SHOWN or job.number == highest]
        table = _empty_table(["job", "", self._heading(), "took", ""])
        for job in listed:
            took = duration(job.seconds) if job.seconds else ""
            value = f"{values[job.number]:.4f}" if job.number in values else ""
            mark = "highest" if job.number == highest else ""  # whether that is good, only the application knows
            table.add_row(self._names[1][job.name], "paused" if job.is_paused() else job.state, value, took, mark)
        more = len(begun) - len(listed)
        below = [Text(f"and {more} more", style="dim")] if more else []
        return Group(*self._above(), *([table] if begun else []), *below)

    def _value(self, job: Job, returned: Mapping[int, Any]) -> float | None:
        """The job's metric; where it has none, what it returned, if that is a number."""
        for value in (job.progress().get("metrics", {}).get(self.metric), returned.get(job.number)):
            if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value):
                return float(value)
        return None

    def seconds_left(self) -> float | None:
        """Seconds until all jobs end, if those whose length is not known take as long as the median of the others."""
        if self.num_expected:  # which jobs come, and for how long, is decided meanwhile
            return None
        known = [job.seconds for job in self.jobs if job.state == "done"]
        known += [job.runs_for + left for job in self.jobs if (left := job.seconds_left()) is not None]
        if not known:
            return None
        typical = statistics.median(known)
        lefts = [
            max(typical - job.runs_for, 0) if (left := job.seconds_left()) is None else left
            for job in self.jobs
            if job.state in ("running", "queued")
        ]
        return sum(lefts) / min(self.num_slots, len(self.jobs))


def _empty_table(headings: Iterable[str]) -> rich.table.Table:
    table = rich.table.Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading != "job")
    return table


def short_names(names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What all names share, and each name without it: its words between dashes, and a hash where it tells nothing more.

    >>> short_names(["lenet-lr0.1-seed0-01234567", "lenet-lr1e-05-seed0-89abcdef"])
    ('lenet seed0', {'lenet-lr0.1-seed0-01234567': 'lr0.1', 'lenet-lr1e-05-seed0-89abcdef': 'lr1e-05'})
    """
    words = {name: re.split(r"(?<!\de)-", name) for name in dict.fromkeys(names)}
    bare = {name: parts[:-1] if re.fullmatch("[0-9a-f]{8}", parts[-1]) else parts for name, parts in words.items()}
    if len({tuple(parts) for parts in bare.values()}) < len(bare):
        bare = words
    if not bare:
        return "", {}
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
