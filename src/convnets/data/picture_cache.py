"""Picture files decoded once, into a file that is mapped into memory: a set larger than memory is read like any other.

The cache is a folder of folders, one for a folder's files and a way to store them, named by a digest of all. In it lie
`images`, the bytes (N, C, size, size), and `index.json`, written last, which tells what could not be decoded.
"""

import errno
import hashlib
import json
import logging
import math
import mmap
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import PIL
import torch
from rich.console import Console
from rich.progress import Progress

from convnets.data import own_pictures
from convnets.data.archive import DataUnavailableError
from convnets.files import RunFolderError, locked, read_json, replacing, write_atomically
from convnets.text import count, duration, size

log = logging.getLogger(__name__)

VERSION = 1  # of how pictures are decoded: raise it when the bytes change
NUM_AT_ONCE = 8  # pictures that a process is asked for at a time
RELEASED_BYTES = 256 * 2**20  # so much of a mapped file counts as the process's memory at most, and what a batch reads
READ_AROUND_BYTES = 2**16  # with a page, Linux maps its neighbours up to so many
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# What a damaged file does to a decoder; other signals are a person's, or the system's when memory runs out.
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL}


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
        image_size: side of the stored images in pixels.

    Attributes:
        digest: of the files and the way to store them, wherever they lie.
        path: of the folder with their images.
    """

    def __init__(
        self, cache_dir: Path, folder: Path, files: Sequence[PictureFile], image_size: int, num_channels: int
    ) -> None:
        self.cache_dir = cache_dir
        self.folder = folder
        self.files = files
        self.shape = (len(files), num_channels, image_size, image_size)
        self.num_bytes = math.prod(self.shape)
        self.digest = _digest(VERSION, self.shape, *files)
        self.path = cache_dir / _digest(str(folder), self.digest, PIL.__version__)

    def bad_files(self) -> dict[str, str] | None:
        """The names of the files that could not be decoded, with the reasons; None where nothing is decoded yet."""
        try:
            is_whole = (self.path / "images").stat().st_size == self.num_bytes
            found = read_json(self.path / "index.json").get("bad_files") if is_whole else None
            return found if isinstance(found, dict) else None
        except (OSError, RunFolderError):
            return None

    def open(self) -> MappedImages:
        """The decoded images, in the order of the files; those of bad files are black."""
        return MappedImages(self.path / "images", self.shape)

    def fill(self) -> None:
        """Decode what is not decoded, in as many processes as there are cores; another process may be at it.

        Raises:
            DataUnavailableError: there is no room, the cache cannot be written, a file cannot be read, or no process
                can decode.
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
            what = f"cannot be written: {error.strerror or error}"
            if error.errno in NO_ROOM:
                pictures, free = count(len(self.files), "decoded picture"), shutil.disk_usage(self.cache_dir).free
                what = f"has {size(free)} free, and {pictures} would take {size(self.num_bytes)}"
            raise DataUnavailableError(
                f"{self.cache_dir} {what}. Set data.cache_dir=FOLDER to a place with room, or data.stored_size to less "
                f"than {self.shape[-1]}."
            ) from error

    def _fill(self) -> None:
        for left_over in self.cache_dir.glob("*/.images.incoming"):  # of a killed process: only this one holds the lock
            left_over.unlink()
        if self.num_bytes > shutil.disk_usage(self.cache_dir).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.path.mkdir(exist_ok=True)
        num_processes = min(len(os.sched_getaffinity(0)), -(-len(self.files) // NUM_AT_ONCE))
        log.info(
            "decoding %s of %s once, in %s, into %s (%s)", count(len(self.files), "picture"), self.folder,
            "1 process" if num_processes == 1 else f"{num_processes} processes", self.path, size(self.num_bytes),
        )  # fmt: skip
        started = time.monotonic()
        console = Console(soft_wrap=True)
        bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        task = bar.add_task("decoding", total=len(self.files))
        with replacing(self.path / "images") as file, bar:
            os.posix_fallocate(file.fileno(), 0, self.num_bytes)
            paths = [str(self.folder / name) for name, *_ in self.files]
            bad = _decode(paths, Path(file.name), self.shape, num_processes, lambda: bar.advance(task))
        # Of the same folder, at the same size: files that were there before, or another Pillow.
        source = {"folder": str(self.folder), "image_shape": [*self.shape[1:]]}
        bad_files = {self.files[row].name: reason for row, reason in sorted(bad.items())}
        write_atomically(self.path / "index.json", json.dumps({**source, "bad_files": bad_files}))
        seconds = time.monotonic() - started
        log.info("decoded in %s, %.0f a second", duration(seconds), len(self.files) / seconds)
        others = []
        for path in {*self.cache_dir.glob("*/index.json")} - {self.path / "index.json"}:
            with suppress(OSError, RunFolderError):
                others += [str(path.parent)] if source.items() <= read_json(path).items() else []
        if others:
            log.info("what was decoded of earlier states of this folder: rm -r %s", shlex.join(sorted(others)))


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _decode(
    paths: Sequence[str], target: Path, shape: tuple[int, ...], num_processes: int, advance: Callable[[], None]
) -> dict[int, str]:
    """Write each picture into its row of the file; return the rows that stay black, with the reasons.

    A thread asks each process, which imports no torch and starts at once. What makes two processes crash is a bad file.

    Raises:
        OSError: a picture cannot be read, or the file not be written.
        DataUnavailableError: no process can be started, or what ends two of them is no crash.
    """
    waiting = deque([*enumerate(paths)][start : start + NUM_AT_ONCE] for start in range(0, len(paths), NUM_AT_ONCE))
    bad: dict[int, str] = {}
    has_killed: set[int] = set()
    processes: list[subprocess.Popen[str]] = []
    stopped = threading.Event()
    command = [sys.executable, "-P", own_pictures.__file__, str(target), str(shape[-1]), str(shape[1])]

    def note(row: int, answer: str | list[object] | None) -> None:
        if isinstance(answer, list):
            raise OSError(*answer)
        if answer:
            bad[row] = answer
        advance()

    def ask(process: subprocess.Popen[str]) -> None:
        """Have the process decode until nothing is left, or it dies."""
        assert process.stdout is not None
        if not process.stdout.readline() and not stopped.is_set():
            to_see_why = shlex.join([*command[:3], os.devnull, *command[4:]])
            raise DataUnavailableError(f"The program that decodes pictures does not start. To see why: {to_see_why}")
        while not stopped.is_set():
            try:
                asked = deque(waiting.popleft())
            except IndexError:  # none are left
                return
            with suppress(BrokenPipeError):
                print(json.dumps([*asked]), file=process.stdin, flush=True)
            while asked and (line := process.stdout.readline()):
                note(asked.popleft()[0], json.loads(line))
            if asked and not stopped.is_set():  # the process has died
                row, path = asked[0]
                if row in has_killed:
                    if process.wait() not in CRASHES:
                        raise DataUnavailableError(
                            f"The program that decodes pictures ended twice at {path}. Start again with more memory "
                            "free, or take this file out of the folder."
                        )
                    note(asked.popleft()[0], "ends the program that decodes it")
                has_killed.add(row)
                waiting.appendleft([*asked])
                return

    def work() -> None:
        while waiting and not stopped.is_set():
            try:
                process = subprocess.Popen(
                    command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            except OSError as error:
                raise DataUnavailableError(
                    f"No process can be started to decode pictures: {error.strerror}. Close other programs."
                ) from error
            processes.append(process)
            try:
                ask(process)
            finally:
                process.kill()
                process.communicate()

    with ThreadPoolExecutor(num_processes) as pool:
        try:
            for ended in as_completed([pool.submit(work) for _ in range(num_processes)]):
                ended.result()
        finally:
            stopped.set()
            for process in processes:
                process.kill()
    assert not waiting
    return bad
