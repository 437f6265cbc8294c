"""Trainings on a GPU: their words, what they leave, and callbacks that watch them."""

import csv
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from lightning.pytorch.callbacks import Callback

SAMPLE = ("trainer=gpu", "data=fashion_mnist_sample", "callbacks=none", "logger=none")


@dataclass
class Trained:
    """A run's folder, as its files tell of it."""

    path: Path

    @property
    def result(self):
        return json.loads((self.path / "result.json").read_text())

    @property
    def loss(self):
        return self.result["metrics"]["train/loss"]

    @property
    def bits(self):
        return (self.path / "weights.safetensors").read_bytes()

    def tensor(self, name):
        return safetensors.torch.load_file(self.path / "weights.safetensors")[name]

    @property
    def weights(self):
        tensors = safetensors.torch.load_file(self.path / "weights.safetensors")
        return torch.cat([tensor.double().flatten() for _, tensor in sorted(tensors.items())])

    @property
    def rows(self):
        with (self.path / "metrics.csv").open() as file:
            return [{key: value for key, value in row.items() if "second" not in key} for row in csv.DictReader(file)]


class NoWaits(Callback):
    """Makes each wait of the processor for the device an error, but at an epoch's last step, where figures are read."""

    def on_train_batch_start(self, trainer, *_):  # until the next one's: also between the steps
        torch.cuda.set_sync_debug_mode("default" if trainer.is_last_batch else "error")


class OneWait(Callback):
    """Waits for the device after each step."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        pl_module.train_tally.num_images.item()


class TellsGpu(Callback):
    """Leaves in the run's folder which GPUs the process saw, and when it trained."""

    def on_train_start(self, *_):
        self.started = time.time()

    def on_train_end(self, trainer, *_):
        seen = {"visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "started": self.started, "ended": time.time()}
        (Path(trainer.default_root_dir) / "gpu.json").write_text(json.dumps(seen))
