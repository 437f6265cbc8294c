"""How much of the machine a training uses: waiting for data, and arithmetic against the device's peak."""

import copy
import json
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from convnets.classifier import Classifier
from convnets.dashboard.writer import writer_of
from convnets.data import ImageDataModule
from convnets.device import DTYPES, device_peak_mib, measure_flops, uncounted
from convnets.files import write_atomically
from convnets.networks.summary import training_flops


class Throughput(Callback):
    """Writes to TensorBoard, each epoch, the share of time spent waiting for data and the speed of the arithmetic.

    throughput/data_wait_percent: share of the training's time, without that for checkpoints, between the end of a step
        and the start of the next: choosing, moving and resizing images (with steps_per_execution above 1 without the
        resizing). On a GPU, the time of the thread that feeds it.
    throughput/model_gflops: 1e9 operations a second, of the convolutions and linear layers forward and backward.
    throughput/peak_percent: of what the device reaches in a product of large matrices, in the training's precision.
    throughput/device_peak_mib: the most memory that tensors have taken so far on a GPU.

    Args:
        peaks_path: a file that keeps the highest peak ever measured of each device. Removing it does no harm.
    """

    def __init__(self, peaks_path: str = "~/.cache/convnets/peaks.json") -> None:
        self.peaks_path = Path(peaks_path).expanduser()
        self._flops_per_image = 0
        self._peak = 0.0
        self._started = self._step_ended = self._waited = self._saving_seconds_at_start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an epoch that is resumed, for which `on_train_epoch_start` is not called."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clocks."""
        self._started = self._step_ended = time.perf_counter()
        self._waited = 0.0
        self._saving_seconds_at_start = saving_seconds(trainer)

    def on_train_batch_start(self, *_: Any) -> None:
        """Stop waiting: the batch is there."""
        self._waited += time.perf_counter() - self._step_ended

    def on_train_batch_end(self, *_: Any) -> None:
        """Begin to wait for the next batch."""
        self._step_ended = time.perf_counter()

    def on_epoch_row(self, trainer: Trainer, classifier: Classifier, row: Mapping[str, float]) -> None:
        """Write the epoch's scalars."""
        if (writer := writer_of(trainer)) is None:
            return
        if not self._peak:  # measured after the first epoch: the user waits for the first step
            self._measure(trainer, classifier)
        saving = saving_seconds(trainer) - self._saving_seconds_at_start
        flops = self._flops_per_image * row["images_per_second"]
        scalars = {
            "data_wait_percent": 100 * (self._waited - saving) / (self._step_ended - self._started - saving),
            "model_gflops": flops / 1e9,
            "peak_percent": 100 * flops / self._peak,
        }
        if (peak_mib := device_peak_mib(classifier.device)) is not None:
            scalars["device_peak_mib"] = peak_mib
        for name, value in scalars.items():
            writer.add_scalar(f"throughput/{name}", value, int(row["epoch"]))
        writer.flush()

    def _measure(self, trainer: Trainer, classifier: Classifier) -> None:
        """Count the network's arithmetic, and measure the device."""
        datamodule = ImageDataModule.of(trainer)
        network = copy.deepcopy(classifier.network)
        self._flops_per_image = training_flops(network, datamodule.resize, datamodule.num_channels)
        with uncounted(classifier.device):
            peak = peak_flops(classifier.device, str(trainer.precision), self.peaks_path)
        self._peak = peak * trainer.world_size


def saving_seconds(trainer: Any) -> float:
    """Seconds that the run has spent on saving checkpoints so far."""
    return sum(getattr(callback, "saving_seconds", 0.0) for callback in trainer.checkpoint_callbacks)


def peak_flops(device: torch.device, precision: str, path: Path) -> float:
    """Operations a second of a large matrix product: the most of what is measured now and what the file has.

    A device may have been busy with other work when it was measured first, so it is measured each time.
    """
    dtype = DTYPES.get(precision, torch.float32)
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{platform.node()}, {torch.get_num_threads()} {torch.backends.cpu.get_cpu_capability()} threads"
    key = f"{name}, {dtype}, {torch.get_float32_matmul_precision()}, torch {torch.__version__}"
    peaks: dict[str, float] = {}
    with suppress(OSError, ValueError):
        peaks = json.loads(path.read_text())
    measured = measure_flops(device, dtype)
    if measured > peaks.get(key, 0):
        peaks[key] = measured
        with suppress(OSError):  # a home that cannot be written costs a measurement each time
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(peaks, indent=2) + "\n")
    return peaks[key]
