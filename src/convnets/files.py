"""Files that are whole or not there, JSON, and paths as a user types them."""

import csv
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside `path` that takes its name once it is on the disk: a crash leaves the old one or the new."""
    temporary = path.with_name(f".{path.name}.incoming")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()  # on a full disk, the space is needed
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too
    finally:
        os.close(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder, once no other process does: files are brought or made by one at a time."""
    with (folder / ".lock").open("a") as file:  # whatever a file of that name holds, it keeps
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s is being filled by another process: waiting for it", folder)
            fcntl.flock(file, fcntl.LOCK_EX)  # the kernel frees it when its holder dies
        yield


def file_digest(path: Path) -> str:
    """Sixteen hexadecimal digits of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file whole: a reader or a crash meets the old content or the new one."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def shown(path: Path) -> str:
    """The path relative to the current directory where it lies below, to be read."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, FileNotFoundError):  # elsewhere, or the current directory was deleted
        return str(path)


def typed(path: Path) -> str:
    """The path as the shell takes it, and no command takes it for an option."""
    text = shown(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def removal(path: Path) -> str:
    """The command that removes a folder."""
    return f"rm -r {typed(path)}"


class RunFolderError(RuntimeError):
    """The folder cannot be used for this run; the text says what is in it and what to do."""


def now() -> str:
    """The time for a file."""
    return datetime.now(UTC).isoformat(timespec="seconds")


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


def processor_name() -> str:
    """What the processor is called, as far as the system tells."""
    with suppress(OSError):
        if found := re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()):
            return found[1]
    return platform.processor() or "CPU"


def read_table(path: Path) -> list[dict[str, float]]:
    """The rows of a file of comma-separated numbers under their names; empty where it is missing or damaged.

    An empty cell is left out.
    """
    try:
        with path.open() as file:
            rows = [*csv.DictReader(file)]
            return [
                {name: int(cell) if cell.isdigit() else float(cell) for name, cell in row.items() if cell != ""}
                for row in rows
            ]
    except (OSError, AttributeError, ValueError):
        return []
