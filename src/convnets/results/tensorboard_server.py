"""Starts TensorBoard on the folders of runs."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO
from urllib.parse import urlencode

from convnets.files import shown

IN_USE = "already in use"  # part of TensorBoard's message about a port
# Enough for every picture and histogram of a long training; TensorBoard's defaults are 10 and 50. Its default of 1,000
# scalars is enough, with one an epoch. 0 does not mean all: its faster data server then keeps none.
SAMPLES = "images=200,histograms=200,pr_curves=50,text=50"

PINNED = ("val/accuracy", "val/loss", "train/loss")  # above all other charts
MOST_TICKED = 40  # of more runs, TensorBoard's older pages show none until some are ticked


class BoardError(RuntimeError):
    """TensorBoard did not start; the text says why."""


def log_folder(folders: Sequence[Path], links: Path) -> Path:
    """The one log folder for TensorBoard, which names each run by its path in there.

    For several folders, and for a single run, it is a folder of links: TensorBoard calls a run that is its log folder
    itself ".".

    Args:
        links: an empty folder to make them in.
    """
    absolute = sorted(folder.resolve() for folder in folders)
    if len(folders) == 1 and not (folders[0] / "config.yaml").is_file():
        return folders[0]
    for folder in absolute:
        name = folder.name if len(folders) == 1 or folder == Path.cwd() else shown(folder).lstrip("/")
        if not any(link.is_symlink() for link in [links / name, *(links / name).parents]):  # else its parent shows it
            (links / name).parent.mkdir(parents=True, exist_ok=True)
            (links / name).symlink_to(folder)
    return links


def command(folder: Path, port: int | None = None) -> list[str]:
    """The command that starts TensorBoard on a log folder.

    Without a port TensorBoard takes the first of 6006 to 6015 that it can bind: asking beforehand which is free would
    leave time for another program to take it.
    """
    options = ["--host", "localhost", "--samples_per_plugin", SAMPLES, *([] if port is None else ["--port", str(port)])]
    return [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), *options]


def first_page(address: str) -> str:
    """The address of the page to begin with: loss and accuracy pinned on top, curves as they are, not smoothed."""
    cards = [{"plugin": "scalars", "tag": tag} for tag in PINNED]
    query = urlencode({"pinnedCards": json.dumps(cards, separators=(",", ":")), "smoothing": 0}, safe="/:,")
    return f"{address}?{query}#timeseries"


def serve(folders: Sequence[Path], num_runs: int, port: int | None = None, opens: bool = False) -> int:
    """Run TensorBoard on the folders until a signal comes; return its exit code, 0 after a signal.

    Args:
        num_runs: in the folders.
        port: see `command`.
        opens: show the first page in the user's browser.

    Raises:
        BoardError: it ended by itself.
    """
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryDirectory() as links:
        process = subprocess.Popen(
            command(log_folder(folders, Path(links).resolve()), port),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        stopped = False

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal stopped
            stopped = True
            process.terminate()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        while process.poll() is None:
            if address := re.search(r"http://localhost:\d+/", _read(errors)):
                names = ", ".join(map(shown, folders))
                page = first_page(address[0])
                print(f"TensorBoard shows {names} at {page} (Ctrl-C stops it)", flush=True)
                if opens and not webbrowser.open(page):
                    print("No browser was found here: open this address in yours.", flush=True)
                if num_runs > MOST_TICKED:
                    print(
                        f"Of more than {MOST_TICKED} runs, here {num_runs}, Scalars and Custom Scalars show none at "
                        "first: filter the runs on the left, or press TOGGLE ALL RUNS.",
                        flush=True,
                    )
                break
            time.sleep(0.1)
        process.wait()
        said = _read(errors)
    if stopped:
        return 0
    if IN_USE in said:
        which = "The ports 6006 to 6015 are" if port is None else f"Port {port} is"
        raise BoardError(f"{which} in use: {'name one by --port' if port is None else 'leave --port away'}.")
    raise BoardError(f"TensorBoard ended with code {process.returncode}:\n{said.strip()[-2000:]}")


def _read(file: IO[str]) -> str:
    """The whole file. Does not move the position in it, where TensorBoard goes on writing."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
