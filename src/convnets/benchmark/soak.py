"""Kill a training again and again, and see whether anything is lost."""

import mmap
import random
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from convnets.callbacks import newest_checkpoint
from convnets.runs.run import Run
from convnets.training.command import compose
from convnets.training.train import train

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


def train_counted(overrides: Sequence[str], run_dir: Path, counter_path: Path) -> None:
    """Train, or go on, in the process that will be killed."""
    config, _ = compose(overrides)
    train(config, run_dir, [StepCounter(counter_path)])


@dataclass
class Soak:
    """A training that is killed `num_kills` times, and its twin that is not."""

    folder: Path
    overrides: Sequence[str]
    num_kills: int
    chance: random.Random
    lost_steps: list[int] = field(default_factory=list)
    num_cut_writes: int = 0
    num_damaged: int = 0
    num_resumes: int = 0

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        counter_path = self.folder / "steps"
        counter_path.write_bytes(STEP.pack(-1))
        command = [sys.executable, sys.argv[0], "--child", str(self.folder / name), str(counter_path), *self.overrides]
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _step(self) -> int:
        return STEP.unpack((self.folder / "steps").read_bytes())[0]

    def carry_out(self) -> str:
        """Train both; return the tally."""
        self.folder.mkdir(parents=True)
        started = time.monotonic()
        if self._start("whole").wait():
            raise RuntimeError(f"The training failed: see {self.folder}/output.log.")
        for kill in range(1, self.num_kills + 1):
            process = self._start("killed")
            while self._step() < 0 and process.poll() is None:
                time.sleep(0.002)
            time.sleep(self.chance.uniform(0, LONGEST_SECONDS))
            process.kill()
            if process.wait() == 0:
                print("the training ended before it could be killed: choose more trainer.max_epochs")
                break
            self._look(kill)
        if self._start("killed").wait():
            raise RuntimeError(f"The training could not go on: see {self.folder}/output.log.")
        self.num_resumes = Run(self.folder / "killed").status["resumed"]
        return self._tally(time.monotonic() - started)

    def _look(self, kill: int) -> None:
        checkpoints_dir = self.folder / "killed" / "checkpoints"
        self.num_cut_writes += (checkpoints_dir / ".last.ckpt.incoming").exists()
        found = newest_checkpoint(checkpoints_dir)
        self.num_damaged += len(list(checkpoints_dir.glob("*.damaged")))
        saved = 0 if found is None else found[1]["global_step"]
        self.lost_steps.append(max(self._step() - saved, 0))
        print(f"kill {kill}: after step {self._step()}, saved at {saved}", flush=True)

    def _tally(self, seconds: float) -> str:
        whole, killed = (self.folder / name for name in ("whole", "killed"))
        same = (whole / "weights.safetensors").read_bytes() == (killed / "weights.safetensors").read_bytes()
        same_metrics = Run(whole).metrics == Run(killed).metrics
        return (
            f"{len(self.lost_steps)} kills, {self.num_resumes} resumes, lost steps at a kill: median "
            f"{statistics.median(self.lost_steps):.0f}, most {max(self.lost_steps)}; killed while a checkpoint was "
            f"written: {self.num_cut_writes}; torn checkpoints met: {self.num_damaged}; final weights "
            f"{'identical' if same else 'DIFFERENT'}, metrics {'identical' if same_metrics else 'DIFFERENT'} "
            f"({seconds / 60:.0f} min)"
        )
