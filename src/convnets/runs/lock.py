"""The lock of a run's folder, so that one process at a time works there.

The kernel keeps it (`flock`), so a dead process holds nothing.
"""

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from convnets.files import RunFolderError, now, shown


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the folder while the context lasts.

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
