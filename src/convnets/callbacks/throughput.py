"""How much of the machine a training uses."""

import copy
import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback

from convnets.atomic import write_atomically
from convnets.callbacks.checkpoints import Checkpoints
from convnets.callbacks.history import History
from convnets.callbacks.tensorboard import writer_of
from convnets.classifier import Classifier
from convnets.memory import device_peak_mib, uncounted
from convnets.networks import summarize

FLOPS_OF_A_MULTIPLY_ADD = 2
PASSES = 3  # the backward pass costs two forward ones: a gradient for the weights, and one for the inputs
DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
MEASURING_SECONDS = 0.2


class Throughput(Callback):
    """Scalars for TensorBoard, of each epoch: what waiting for data takes, and what the network's arithmetic comes to.

    throughput/data_wait_percent: share of the training's time between one step's end and the next one's start, but for
        checkpoints: choosing, moving and resizing images (with steps_per_execution above 1 without the resizing). On a
        GPU, the time of the thread that feeds it.
    throughput/model_gflops: 1e9 operations a second, of the convolutions and linear layers forward and backward.
    throughput/peak_percent: of what the device reaches in a product of large matrices, in the training's precision.
    throughput/device_peak_mib: the most memory that tensors have taken so far on a GPU.

    Args:
        peaks_path: a file that keeps the highest peak ever measured of each device. Removing it does no harm.
    """

    def __init__(self, peaks_path: str = "~/.cache/convnets/peaks.json") -> None:
        self.peaks_path = Path(peaks_path).expanduser()
        self._flops_an_image = 0
        self._peak = 0.0
        self._started = self._step_ended = self._waited = self._saving_before = 0.0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Start the clock of an epoch that is resumed."""
        self._start(trainer)

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Count from zero."""
        self._start(trainer)

    def _start(self, trainer: lightning.Trainer) -> None:
        self._started = self._step_ended = time.perf_counter()
        self._waited = 0.0
        self._saving_before = Checkpoints.of(trainer).saving_seconds

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is there."""
        self._waited += time.perf_counter() - self._step_ended

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The next batch is waited for."""
        self._step_ended = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the epoch's scalars."""
        if (writer := writer_of(trainer)) is None:
            return
        if not self._peak:  # not before the first step, which someone waits for
            self._measure(trainer, pl_module)
        saving = Checkpoints.of(trainer).saving_seconds - self._saving_before
        flops = self._flops_an_image * History.of(trainer).rows[-1]["images_per_second"]
        scalars = {
            "data_wait_percent": 100 * (self._waited - saving) / (self._step_ended - self._started - saving),
            "model_gflops": flops / 1e9,
            "peak_percent": 100 * flops / self._peak,
        }
        if (peak_mib := device_peak_mib(pl_module.device)) is not None:
            scalars["device_peak_mib"] = peak_mib
        for name, value in scalars.items():
            writer.add_scalar(f"throughput/{name}", value, trainer.current_epoch + 1)
        writer.flush()

    def _measure(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Count the network's arithmetic, and measure the device."""
        assert isinstance(pl_module, Classifier)
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        whole = summarize(copy.deepcopy(pl_module.network), datamodule.resize, datamodule.num_channels)[0]
        self._flops_an_image = whole.multiply_adds * FLOPS_OF_A_MULTIPLY_ADD * PASSES
        with uncounted(pl_module.device):
            peak = peak_flops(pl_module.device, str(trainer.precision), self.peaks_path)
        self._peak = peak * trainer.world_size


def peak_flops(device: torch.device, precision: str, path: Path) -> float:
    """Operations a second of a large matrix product: measured now, or in the file if that is more.

    A device that was busy with other work when it was measured first would else be exceeded for ever.
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
    measured = measure_peak(device, dtype)
    if measured > peaks.get(key, 0):
        peaks[key] = measured
        with suppress(OSError):  # a home that cannot be written costs a measurement each time
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(peaks, indent=2) + "\n")
    return peaks[key]


def measure_peak(device: torch.device, dtype: torch.dtype, seconds: float = MEASURING_SECONDS) -> float:
    """Operations a second of the fastest product of large matrices within so many seconds.

    As torch multiplies matrices, and as a 1x1 convolution: on a CPU these are two libraries, the second often faster.
    Draws no random numbers: the training does.
    """
    wait: Callable[[], Any] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    size = 4096 if device.type == "cuda" else 1024
    matrix = torch.linspace(-1, 1, size * size, device=device).reshape(size, size).to(dtype)
    side = int(size**0.5)
    images = matrix.reshape(1, side, side, size).permute(0, 3, 1, 2)  # channels last
    products = (lambda: matrix @ matrix, lambda: F.conv2d(images, matrix[:, :, None, None]))
    fastest = float("inf")
    for product in products:
        product()
        wait()
        deadline = time.perf_counter() + seconds / len(products)
        while (started := time.perf_counter()) < deadline or fastest == float("inf"):
            product()
            wait()
            fastest = min(fastest, time.perf_counter() - started)
    return 2 * size**3 / fastest
