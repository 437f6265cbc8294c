"""Processes that are killed with all that they started."""

import os
import signal
import subprocess
from contextlib import suppress


def kill_tree(process):
    """SIGKILL to the process and all its descendants. They are stopped first, so that none starts another meanwhile."""
    found, unseen = [], [process.pid]
    while unseen:
        found += unseen
        for pid in unseen:
            _send(pid, signal.SIGSTOP)
        listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
        unseen = [pid for pid, parent in pairs if parent in found and pid not in found]
    for pid in reversed(found):
        _send(pid, signal.SIGKILL)
    process.communicate()


def _send(pid, number):
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.kill(pid, number)
