"""Measure tasks, each in a fresh process, one at a time."""

import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convnets.benchmark.marks import Task

CHILD = Path(__file__).with_name("child.py")
LONGEST_SECONDS = 3600
LAST_LINES = 3


def measure(task: Task) -> dict[str, Any]:
    """The task's figures, with the `seconds` of its process; or the `error`, in its last words.

    `others_share` is what others than this process and its children had of the processors' time meanwhile, the host's
    other machines included where the kernel is told.

    The process has a terminal, so that progress bars are drawn, and its cost is in the figures.
    """
    with tempfile.TemporaryDirectory() as folder:
        result_path = Path(folder) / "result.json"
        work_dir = Path(folder) / "work"
        work_dir.mkdir()
        ours, theirs = pty.openpty()
        said: list[bytes] = []
        reader = threading.Thread(target=_read, args=(ours, said))
        reader.start()
        started, busy_before, own_before = time.monotonic(), _busy_seconds(), _own_seconds()
        # By its path: of a module Lightning would start the other ranks as that module. -P: not from that folder.
        command = [sys.executable, "-P", str(CHILD), task.dumps(), str(started), str(result_path)]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        try:
            subprocess.run(
                command, cwd=work_dir, env=environment, stdin=theirs, stdout=theirs, stderr=theirs,
                timeout=LONGEST_SECONDS,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            said.append(f"not done within {LONGEST_SECONDS} s".encode())
        finally:
            seconds = time.monotonic() - started
            others = _busy_seconds() - busy_before - (_own_seconds() - own_before)
            os.close(theirs)
            reader.join()
            os.close(ours)
        if not result_path.exists():
            lines = [line for line in b"".join(said).decode(errors="replace").splitlines() if line.strip()]
            return {"error": "\n".join(lines[-LAST_LINES:])}
        others_share = max(others / (seconds * (os.cpu_count() or 1)), 0)
        return {**json.loads(result_path.read_text()), "seconds": seconds, "others_share": others_share}


def _busy_seconds() -> float:
    """What all processors have worked since the machine's start, and have been held back from it."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """What this process and its ended children have worked."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _read(terminal: int, said: list[bytes]) -> None:
    while True:
        try:
            if not (some := os.read(terminal, 65536)):
                return
        except OSError:  # the other side is closed
            return
        said[:] = [*said[-50:], some]


def interleaved(tasks: Sequence[Task], num_repetitions: int) -> list[tuple[int, Task]]:
    """Each task once a repetition, each repetition from another one on: what drifts meets all alike."""
    return [
        (repetition, tasks[(place + repetition) % len(tasks)])
        for repetition in range(num_repetitions)
        for place in range(len(tasks))
    ]
