"""A run's folder as files: its lock, its JSON. Knows no torch, so that many folders are read in little time."""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from convnets.configuration.shell import removal, shown

FINISHED_FILES = ("config.yaml", "result.json", "metrics.csv", "weights.safetensors")


class RunFolderError(RuntimeError):
    """The folder cannot be used for this run; the text says what is in it and what to do."""


def now() -> str:
    """The time for a file."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the folder. The lock is the kernel's, so a dead holder holds nothing.

    Raises:
        RunFolderError: another process holds it, or the folder cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = path / ".lock"
        file = lock.open("a+")
    except OSError as error:
        raise RunFolderError(
            f"{shown(path)} cannot be written: {error.strerror}. Choose another with hydra.run.dir."
        ) from error
    with file:
        try:
            _take(file)
            if not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                raise BlockingIOError  # who held it has removed the folder since
        except (BlockingIOError, FileNotFoundError):
            file.seek(0)
            holder = file.read() or "another process"
            raise RunFolderError(f"{shown(path)} is in use by {holder}: wait for it, or set run_name=NAME.") from None
        try:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {now()}")
            file.flush()
            yield
        finally:
            if path.exists() and [*path.iterdir()] == [path / ".lock"]:  # refused before it began
                shutil.rmtree(path)


def _take(file: TextIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(0.02)  # is_held holds it for microseconds
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(path: Path) -> bool:
    """Whether a process works in the folder now."""
    try:
        with (path / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such file, or none of ours to read
        return False
    return False


def last_change(path: Path) -> float:
    """When the run in the folder last went on: the `latest` run is the one that went on last."""
    status_path = path / "status.json"  # which a run killed in its first moment has not
    return (status_path if status_path.exists() else path / "config.yaml").stat().st_mtime


def read_json(path: Path) -> dict[str, Any]:
    """The file's content, empty where there is none.

    Raises:
        RunFolderError: it is no JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is damaged. To train anew: {removal(path.parent)}")
    return content
