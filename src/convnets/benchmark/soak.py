"""Kill a training again and again, and see whether anything is lost.

As a program, this is the training that is killed: python -P soak.py RUN_DIR COUNTER_PATH OVERRIDE...
"""

import mmap
import random
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from convnets.callbacks import newest_checkpoint
from convnets.runs.run import Run
from convnets.training.command import compose
from convnets.training.train import train

SETTINGS = ("checkpoint.every_seconds=1", "checkpoint.keep=true", "callbacks=none", "run_name=soak")
LONGEST_SECONDS = 2.5  # from a process's first step to its end
STEP = struct.Struct("<q")


class StepCounter(Callback):
    """Keeps the number of the last step in a file's memory, where it survives the process."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), STEP.size)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Note the step."""
        STEP.pack_into(self._memory, 0, trainer.global_step)


def soak(overrides: Sequence[str], num_kills: int, seed: int) -> str:
    """Train once undisturbed, and once killed at random instants; return a line that compares the two.

    Raises:
        RuntimeError: a training failed.
    """
    folder = Path("outputs/soak") / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    folder.mkdir(parents=True)
    words = [f"trainer.max_epochs={max(num_kills // 2, 2)}", *SETTINGS, *overrides]
    whole, killed, counter_path = folder / "whole", folder / "killed", folder / "steps"

    def start(run_dir: Path) -> subprocess.Popen[bytes]:
        counter_path.write_bytes(STEP.pack(-1))
        with (folder / "output.log").open("ab") as log:
            command = [sys.executable, "-P", __file__, str(run_dir), str(counter_path), *words]
            return subprocess.Popen(command, stdout=log, stderr=log)

    def last_step() -> int:
        return STEP.unpack(counter_path.read_bytes())[0]

    chance, started = random.Random(seed), time.monotonic()
    lost_steps: list[int] = []
    num_cut_writes = num_damaged = 0
    if start(whole).wait():
        raise RuntimeError(f"The training failed: see {folder}/output.log.")
    for kill in range(1, num_kills + 1):
        process = start(killed)
        while last_step() < 0 and process.poll() is None:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, LONGEST_SECONDS))
        process.kill()
        if process.wait() == 0:
            print("the training ended before it could be killed: choose more trainer.max_epochs")
            break
        num_cut_writes += (killed / "checkpoints" / ".last.ckpt.incoming").exists()
        checkpoint = newest_checkpoint(killed / "checkpoints")
        num_damaged += len(list(killed.glob("checkpoints/*.damaged")))
        saved_step = 0 if checkpoint is None else checkpoint[1]["global_step"]
        lost_steps.append(max(last_step() - saved_step, 0))
        print(f"kill {kill}: after step {last_step()}, saved at {saved_step}", flush=True)
    if start(killed).wait():
        raise RuntimeError(f"The training could not go on: see {folder}/output.log.")
    weights, killed_weights = ((run / "weights.safetensors").read_bytes() for run in (whole, killed))
    same_metrics = Run(whole).metrics == Run(killed).metrics
    return (
        f"{len(lost_steps)} kills, {Run(killed).status['resumed']} resumes, lost steps at a kill: median "
        f"{statistics.median(lost_steps):.0f}, most {max(lost_steps)}; killed while a checkpoint was "
        f"written: {num_cut_writes}; torn checkpoints met: {num_damaged}; final weights "
        f"{'identical' if weights == killed_weights else 'DIFFERENT'}, metrics "
        f"{'identical' if same_metrics else 'DIFFERENT'} ({(time.monotonic() - started) / 60:.0f} min)"
    )


if __name__ == "__main__":
    run_dir, counter_path, *overrides = sys.argv[1:]
    train(compose(overrides)[0], Path(run_dir), [StepCounter(Path(counter_path))])
