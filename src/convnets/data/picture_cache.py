"""Picture files decoded once, into a file that is mapped into memory: a set larger than memory is read like any other.

The cache is a folder of folders, one a set of files and a way to store them, named by the digest of both. In it lie
`images`, the bytes (N, C, size, size), and `index.json`, written last, which tells what could not be decoded.
"""

import errno
import hashlib
import json
import logging
import mmap
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from convnets.data import own_pictures
from convnets.data.archive import DataUnavailableError, locked
from convnets.files import RunFolderError, read_json, replacing, write_atomically
from convnets.text import count, duration, size

log = logging.getLogger(__name__)

VERSION = 1  # of how pictures are decoded: raise it when the bytes change
NUM_AT_ONCE = 8  # pictures that a process is asked for at a time
RELEASED_BYTES = 256 * 2**20  # so much of a mapped file counts as the process's memory at most, and what a batch reads
READ_AROUND_BYTES = 2**16  # with a page, Linux maps its neighbours up to so many
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class PictureFile(NamedTuple):
    """A file, its path relative to the set's folder, and what tells it from a changed one."""

    name: str
    num_bytes: int
    modified_ns: int


class MappedImages:
    """Images (N, C, size, size) of bytes in a file, which the system reads when they are asked for, and forgets again.

    Attributes:
        images: may be read only.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")  # nobody writes
            self.images = torch.frombuffer(self._map, dtype=torch.uint8).view(shape)
        self._unreleased = 0

    def note_reading(self, num_images: int) -> None:
        """Now and then, give the pages that were read back to the system, which keeps them while it has room."""
        self._unreleased += num_images * (self.images[0].nbytes + READ_AROUND_BYTES)
        if self._unreleased > RELEASED_BYTES:
            self._map.madvise(mmap.MADV_DONTNEED)
            self._unreleased = 0


class PictureCache:
    """Where the pictures of these files lie decoded, or will.

    Args:
        folder: of the files.
        size: side of the stored images in pixels.
    """

    def __init__(
        self, cache_dir: Path, folder: Path, files: Sequence[PictureFile], image_size: int, num_channels: int
    ) -> None:
        self.cache_dir = cache_dir
        self.folder = folder
        self.files = files
        self.shape = (len(files), num_channels, image_size, image_size)
        known = [VERSION, self.shape, *files]
        self.digest = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]
        self._path = cache_dir / self.digest

    @property
    def num_bytes(self) -> int:
        """The bytes of all images."""
        return torch.Size(self.shape).numel()

    def bad_files(self) -> dict[str, str] | None:
        """The names of the files that could not be decoded, with the reasons; None where nothing is decoded yet."""
        try:
            index = read_json(self._path / "index.json")
            whole = index.get("digest") == self.digest and (self._path / "images").stat().st_size == self.num_bytes
        except (OSError, RunFolderError):
            return None
        return index["bad_files"] if whole else None

    def open(self) -> MappedImages:
        """The decoded images, in the order of the files; those of bad files are black."""
        return MappedImages(self._path / "images", self.shape)

    def fill(self) -> None:
        """Decode what is not decoded, in as many processes as there are cores; another process may be at it.

        Raises:
            DataUnavailableError: there is no room, or the cache cannot be written.
        """
        if self.bad_files() is not None:
            return
        try:
            self.cache_dir.mkdir(parents=True, exist_ok=True)
            with locked(self.cache_dir):
                if self.bad_files() is None:
                    self._fill()
        except OSError as error:
            if error.filename in {str(self.folder / file.name) for file in self.files}:
                raise DataUnavailableError(
                    f"{error.filename} cannot be read: {error.strerror}. Make it readable, or take it out."
                ) from error
            what = self._lack_of_room() if error.errno in NO_ROOM else f"cannot be written: {error.strerror or error}"
            raise DataUnavailableError(f"{self.cache_dir} {what}. {self._way_out()}") from error

    def _lack_of_room(self) -> str:
        free = shutil.disk_usage(self.cache_dir).free
        return (
            f"has {size(free)} free, and {count(len(self.files), 'decoded picture')} would take {size(self.num_bytes)}"
        )

    def _way_out(self) -> str:
        return f"Set data.cache_dir=FOLDER to a place with room, or data.stored_size to less than {self.shape[-1]}."

    def _fill(self) -> None:
        for left_over in self.cache_dir.glob("*/.images.incoming"):  # of a killed process: only this one holds the lock
            left_over.unlink()
        if self.num_bytes > shutil.disk_usage(self.cache_dir).free:
            raise DataUnavailableError(f"{self.cache_dir} {self._lack_of_room()}. {self._way_out()}")
        self._path.mkdir(exist_ok=True)
        num_processes = min(len(os.sched_getaffinity(0)), -(-len(self.files) // NUM_AT_ONCE))
        log.info(
            "decoding %s of %s once, in %s, into %s (%s)", count(len(self.files), "picture"), self.folder,
            "1 process" if num_processes == 1 else f"{num_processes} processes", self._path, size(self.num_bytes),
        )  # fmt: skip
        started = time.monotonic()
        target = self._path / "images"
        with replacing(target) as file, _bar(len(self.files)) as advance:
            try:
                os.posix_fallocate(file.fileno(), 0, self.num_bytes)
                paths = [str(self.folder / name) for name, *_ in self.files]
                bad = _decode(paths, Path(file.name), self.shape, num_processes, advance)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)  # the space is needed
                raise
        index = {
            "folder": str(self.folder),
            "digest": self.digest,
            "bad_files": {self.files[row].name: reason for row, reason in sorted(bad.items())},
        }
        write_atomically(self._path / "index.json", json.dumps(index))
        seconds = time.monotonic() - started
        log.info("decoded in %s, %.0f a second", duration(seconds), len(self.files) / seconds)
        if others := [path.parent for path in self.cache_dir.glob("*/index.json") if self._is_earlier(path)]:
            log.info("what was decoded of earlier states of this folder: rm -r %s", shlex.join(map(str, others)))

    def _is_earlier(self, path: Path) -> bool:
        with suppress(RunFolderError):
            index = read_json(path)
            return index.get("folder") == str(self.folder) and index.get("digest") != self.digest
        return False


@contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
    """A bar where there is a terminal; what is yielded moves it."""
    console = Console(soft_wrap=True)
    columns = (TextColumn("decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def _decode(
    paths: Sequence[str], target: Path, shape: tuple[int, ...], num_processes: int, advance: Callable[[], None]
) -> dict[int, str]:
    """Write each picture into its row of the file; return the rows that stay black, with the reasons.

    A thread asks each process, which imports no torch and starts at once. What kills two processes is a bad file.

    Raises:
        OSError: a picture cannot be read, or the file not be written.
    """
    waiting = deque([*enumerate(paths)][start : start + NUM_AT_ONCE] for start in range(0, len(paths), NUM_AT_ONCE))
    bad: dict[int, str] = {}
    has_killed: set[int] = set()
    errors: list[OSError] = []
    processes: list[subprocess.Popen[str]] = []
    stopped = threading.Event()
    command = [sys.executable, own_pictures.__file__, str(target), str(shape[-1]), str(shape[1])]

    def start() -> subprocess.Popen[str]:
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        processes.append(subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=nowhere))
        return processes[-1]

    def note(row: int, answer: Any) -> None:
        if isinstance(answer, list):
            errors.append(OSError(*answer))
            stopped.set()
        elif answer:
            bad[row] = answer
        advance()

    def work() -> None:
        process = start()
        while not stopped.is_set():
            try:
                asked = deque(waiting.popleft())
            except IndexError:  # none are left
                return
            with suppress(BrokenPipeError):
                print(json.dumps([*asked]), file=process.stdin, flush=True)
            while asked and (line := process.stdout.readline()):  # type: ignore[union-attr]
                note(asked.popleft()[0], json.loads(line))
            if asked and not stopped.is_set():  # the process has died
                if (row := asked[0][0]) in has_killed:
                    note(asked.popleft()[0], "ends the program that decodes it")
                has_killed.add(row)
                waiting.appendleft([*asked])
                process = start()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(num_processes)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stopped.set()
        for process in [*processes]:
            process.kill()
        for thread in threads:
            thread.join()
        for process in processes:
            process.kill()
            process.communicate()
    if errors:
        raise errors[0]
    return bad
