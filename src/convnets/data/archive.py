"""Find, download, verify and read the four files of Fashion-MNIST."""

import gzip
import hashlib
import logging
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convnets.files import locked

log = logging.getLogger(__name__)

SPLIT_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# sha256 of the decompressed bytes: mirrors and distributions compress the same files differently.
FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
SYSTEM_DIR = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist
STALL_SECONDS = 20.0
TORCHVISION = "from torchvision import datasets"
INCOMING = ".convnets-incoming-"  # folders that files are fetched into

Checksums = Mapping[str, str]


class DataUnavailableError(RuntimeError):
    """The images cannot be had, or not all of them; the text says why, and what to do."""


class SourceError(Exception):
    """One source could not deliver, for the reason in the text."""


def ensure_files(data_dir: Path, checksums: Checksums = FASHION_MNIST_SHA256) -> None:
    """Put the verified, decompressed files into `data_dir`, from the first source that has them.

    Sources: what already lies in `data_dir` (raw or .gz), the system folder of Debian's package, the official mirrors,
    Debian's archive. Safe to call from several processes at once, and to be killed at any moment. A folder that cannot
    be written serves as it is, if its files are intact, raw or .gz.

    No existing file is ever renamed, overwritten or removed: a fetched one appears whole, under a name that was free.
    So a file of one of these names with other bytes is a user's (MNIST has the same names).

    Raises:
        DataUnavailableError: other files have the names, no source delivered, or `data_dir` cannot be written.
    """
    try:
        if all(_is_intact(data_dir / name, digest) for name, digest in checksums.items()):
            return
        _refuse_other_files(data_dir, checksums)
        data_dir.mkdir(parents=True, exist_ok=True)
        with locked(data_dir):
            _fetch_missing(data_dir, checksums)
    except OSError as error:
        if all(_has_intact(data_dir, name, digest) for name, digest in checksums.items()):
            return
        raise DataUnavailableError(
            f"Fashion-MNIST cannot be kept in {data_dir}: {error.strerror or error}. "
            "Set data.dir to a folder that can be written, with 60 MB free."
        ) from error


def _refuse_other_files(data_dir: Path, checksums: Checksums) -> None:
    """Raise DataUnavailableError if anything lies under one of the names, raw or as .gz, that is not that file."""
    found: dict[Path, str] = {}
    for name, digest in checksums.items():
        path = next((path for path in (data_dir / name, data_dir / f"{name}.gz") if os.path.lexists(path)), None)
        if path is not None and not (path.is_file() and _has_intact(data_dir, name, digest)):
            found[path] = _description(path, name)
    if found:
        raise DataUnavailableError(
            f"{data_dir} holds other files under the names of Fashion-MNIST's, which MNIST and others use too:\n"
            + "\n".join(f"  {path.name}: {what}" for path, what in found.items())
            + "\nNothing was changed. Set data.dir to another folder, which is filled with Fashion-MNIST. Or, if these "
            f"are damaged copies of it that can go: rm -r {shlex.join(map(str, found))}"
        )


def _description(path: Path, name: str) -> str:
    if not path.is_file():
        return "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "no file"
    content = _content(path.parent, name)
    if content is None or (shape := _idx_shape(content)) is None:
        return "damaged, cut short, or no IDX file of bytes"
    what = "labels" if len(shape) == 1 else f"images of {'x'.join(map(str, shape[1:]))}"
    return f"an IDX file of {shape[0]:,} {what}, with other bytes than Fashion-MNIST's"


def _fetch_missing(data_dir: Path, checksums: Checksums) -> None:
    missing = [name for name, digest in checksums.items() if not _is_intact(data_dir / name, digest)]
    attempts: list[str] = []
    for source, fetch in SOURCES.items():
        if not missing:  # another process brought them while this one waited for the lock, or the source just did
            return
        started = time.monotonic()
        with incoming_folder(data_dir) as incoming:
            try:
                found = fetch(data_dir, incoming)
                missing = [n for n in missing if not _install(found, incoming, data_dir / n, checksums[n])]
                outcome = f"no intact {', '.join(missing)}"
            except SourceError as error:
                outcome = str(error)
        if not missing:
            outcome = f"found and verified ({time.monotonic() - started:.1f} s)"
        log.info("Fashion-MNIST: %s: %s", source, outcome)
        attempts.append(f"  {source}: {outcome}")
    if missing:
        raise DataUnavailableError(
            "Fashion-MNIST was not found. Tried:\n"
            + "\n".join(attempts)
            + f"\nPut the four files ({', '.join(checksums)}; raw or .gz) into {data_dir}, or name the folder "
            "that has them with data.dir=FOLDER. Without any network, data=fashion_mnist_sample trains on 1,000 images."
        )


def _in_system_dir(data_dir: Path, incoming: Path) -> Path:
    if not SYSTEM_DIR.is_dir():
        raise SourceError("no such folder (Debian's package dataset-fashion-mnist makes it)")
    return SYSTEM_DIR


def _from_mirrors(data_dir: Path, incoming: Path) -> Path:
    download_with_torchvision("FashionMNIST", [{}], incoming)
    return incoming / "FashionMNIST" / "raw"


def _from_debian(data_dir: Path, incoming: Path) -> Path:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise SourceError(f"{tool} is not installed (not a Debian system)")
    (incoming / "lists/partial").mkdir(parents=True)
    (incoming / "cache/archives/partial").mkdir(parents=True)
    # With state folders of its own apt-get needs no root; its sandbox user could not write here.
    options = [
        f"Dir::State::Lists={incoming}/lists",
        f"Dir::Cache={incoming}/cache",
        "APT::Sandbox::User=",
        "Acquire::Retries=0",
    ]
    apt_get = ["apt-get", *(word for option in options for word in ("-o", option))]
    run_watched([*apt_get, "update"], incoming)
    run_watched([*apt_get, "download", "dataset-fashion-mnist"], incoming)
    for package in incoming.glob("*.deb"):
        run_watched(["dpkg-deb", "-x", str(package), str(incoming)], incoming)
    return incoming / SYSTEM_DIR.relative_to("/")


# Each is given (data_dir, an empty folder in it) and returns the folder that holds the files, raw or .gz.
SOURCES: dict[str, Callable[[Path, Path], Path]] = {
    "data.dir": lambda data_dir, incoming: data_dir,
    str(SYSTEM_DIR): _in_system_dir,
    "the official mirrors": _from_mirrors,
    "Debian's archive": _from_debian,
}


@contextmanager
def incoming_folder(data_dir: Path) -> Iterator[Path]:
    """An empty folder in `data_dir`, which this process has locked: what a killed one left there is removed."""
    for left_over in data_dir.glob(f"{INCOMING}*"):
        shutil.rmtree(left_over)
    with tempfile.TemporaryDirectory(dir=data_dir, prefix=INCOMING) as folder:
        yield Path(folder)


def download_with_torchvision(kind: str, options: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Have torchvision's class of that name download into the folder, once with each of the options.

    Raises:
        SourceError: see `run_watched`.
    """
    calls = [f"datasets.{kind}('.', download=True, **{dict(some)})" for some in options]
    run_watched([sys.executable, "-c", "\n".join([TORCHVISION, *calls])], folder)


def run_watched(command: list[str], folder: Path, stall_seconds: float = STALL_SECONDS) -> None:
    """Run the command in `folder`; kill it when it has neither written nor printed anything for `stall_seconds`.

    In a process of its own, because neither a name look-up nor torchvision's downloader takes a time-out.

    Raises:
        SourceError: with the command's last line, or with how long it stalled.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            size, changed = -1, time.monotonic()
            while process.poll() is None:
                if (now_size := _size_of(folder) + os.fstat(output.fileno()).st_size) != size:
                    size, changed = now_size, time.monotonic()
                elif time.monotonic() - changed > stall_seconds:
                    raise SourceError(f"no progress for {stall_seconds:.0f} s, given up")
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
        if process.returncode != 0:
            output.seek(0)
            lines = [line for line in output.read().decode(errors="replace").splitlines() if line.strip()]
            raise SourceError(lines[-1].strip() if lines else f"{command[0]} ended with {process.returncode}")


def _size_of(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # renamed by the download between the listing and here
            continue
    return total


def _install(source_dir: Path, incoming: Path, target: Path, digest: str) -> bool:
    """Decompress and verify one file, and put it in place atomically; False where the source has no intact one."""
    content = _content(source_dir, target.name)
    if content is None or hashlib.sha256(content).hexdigest() != digest:
        return False
    temporary = incoming / f"{target.name}.whole"
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    return True


def _content(folder: Path, name: str) -> bytearray | None:
    """The bytes of a file that is there raw or as .gz, else None. A raw one takes no memory twice."""
    try:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                content = bytearray(os.fstat(file.fileno()).st_size)
                return content if file.readinto(content) == len(content) else None
        return bytearray(gzip.decompress((folder / f"{name}.gz").read_bytes()))
    except (FileNotFoundError, NotADirectoryError, EOFError, gzip.BadGzipFile, zlib.error):
        return None


def _has_intact(folder: Path, name: str, digest: str) -> bool:
    try:
        content = _content(folder, name)
    except OSError:
        return False
    return content is not None and hashlib.sha256(content).hexdigest() == digest


def _is_intact(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except (FileNotFoundError, NotADirectoryError):
        return False


def read_idx(path: Path) -> Tensor:
    """Read an IDX file of bytes, raw or with .gz behind its name: images (N, H, W) or labels (N,), uint8.

    Raises:
        ValueError: the file is not of that format, or cut short.

    Source: the format's description on the MNIST page of Y. LeCun.
    """
    content = _content(path.parent, path.name) or bytearray()
    if (shape := _idx_shape(content)) is None:
        raise ValueError(f"{path} is no whole IDX file of bytes.")
    return torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * len(shape)).view(shape)


def _idx_shape(content: bytearray) -> tuple[int, ...] | None:
    """The shape of an IDX file of bytes, from its header; None where the content is no such file, or not whole."""
    num_dimensions = content[3] if content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * num_dimensions
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    return shape if num_dimensions and len(content) == start + math.prod(shape) else None
