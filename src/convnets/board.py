"""TensorBoard, on the right folders."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from convnets.folder import shown

PORT = 6006  # TensorBoard's own
START_SECONDS = 60
# Enough for every picture of a long training and its histograms; TensorBoard's own are 10 and 50. Of scalars its own
# 1,000 are, a point an epoch; 0 is no way to ask for all: its faster data server then keeps none, and charts are empty.
SAMPLES = "images=200,histograms=200,pr_curves=50,text=50"


class BoardError(RuntimeError):
    """TensorBoard did not start; the text says why."""


def free_port(wanted: int | None = None) -> int:
    """The port if it is free, by default TensorBoard's; if that is not, any other.

    Raises:
        BoardError: one was asked for, and is taken.
    """
    for port in (wanted,) if wanted else (PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("localhost", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise BoardError(f"Port {wanted} is in use: leave --port away, and a free one is taken.")


def command(folders: Sequence[Path], port: int) -> list[str]:
    """What starts TensorBoard on the folders; several are told apart by their names."""
    if len(folders) == 1:
        where = ["--logdir", str(folders[0])]
    else:
        where = ["--logdir_spec", ",".join(f"{shown(folder).replace(':', '_')}:{folder}" for folder in folders)]
    options = ["--host", "localhost", "--port", str(port), "--samples_per_plugin", SAMPLES]
    return [sys.executable, "-m", "tensorboard.main", *where, *options]


def serve(folders: Sequence[Path], port: int) -> int:
    """Run TensorBoard until a signal comes; return its exit code, 0 after a signal.

    Raises:
        BoardError: it ended by itself before it answered.
    """
    process = subprocess.Popen(
        command(folders, port), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    address = f"http://localhost:{port}/"
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline and not _answers(address):
        time.sleep(0.1)
    if process.poll() is None and not stopped:
        print(f"TensorBoard shows {', '.join(map(shown, folders))} at {address} (Ctrl-C stops it)", flush=True)
    errors = process.communicate()[1]
    if not stopped and process.returncode:
        raise BoardError(f"TensorBoard ended with code {process.returncode}:\n{errors.strip()[-2000:]}")
    return 0 if stopped else process.returncode


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as response:
            return response.status == 200
    except OSError:
        return False
