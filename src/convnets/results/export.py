"""Exports a trained run as a program that needs neither this project nor, as ONNX, PyTorch."""

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from convnets.configuration.rules import ConfigurationError
from convnets.configuration.shell import installation
from convnets.data import DataUnavailableError, ImageDataModule
from convnets.files import RunFolderError
from convnets.results.trained_run import TrainedRun

METADATA = ("class_names", "image_size", "num_channels", "run")
FILES = {  # and what their metadata are in
    "onnx": ("model.onnx", "onnxruntime's session.get_modelmeta().custom_metadata_map"),
    "torch": ("model.pt2", "the extra_files of torch.export.load"),
}
NUM_CHECKED = 100
BATCHES = ({0: torch.export.Dim("batch")},)  # of any size
TOLERANCE = 1e-3  # of scores, beside the largest one


class ExportError(RuntimeError):
    """The exported program does not do what the run does."""


class FromBytes(nn.Module):
    """A network with its preprocessing: images (N, C, H, W) of bytes to scores (N, num_classes)."""

    def __init__(self, network: nn.Module, datamodule: ImageDataModule) -> None:
        super().__init__()
        self.network = network
        self.datamodule = datamodule

    def forward(self, images: Tensor) -> Tensor:
        """Score the images."""
        return self.network(self.datamodule.to_network_input(images))


class Exported(NamedTuple):
    """A program that was exported, and checked on real images.

    Args:
        difference: the largest one between the run's and the program's score.
        image_shape: (C, H, W) of the bytes that it takes.
        checked_on: what the checked images are.
    """

    path: Path
    difference: float
    num_checked: int
    image_shape: tuple[int, ...]
    num_classes: int
    checked_on: str

    def __str__(self) -> str:
        shape = ", ".join(map(str, self.image_shape))
        return (
            f"{self.path}: images (N, {shape}) of bytes to scores (N, {self.num_classes}); the same classes as the "
            f"run's for {self.num_checked} {self.checked_on}, scores to within {self.difference:.1e}; "
            f"{', '.join(METADATA)}, as JSON, in {dict(FILES.values())[self.path.name]}"
        )


def export(run: TrainedRun, to: str) -> Exported:
    """Write RUN/model.onnx or RUN/model.pt2, once it has given the run's scores for 100 test images, or random ones.

    Its input `images` are bytes (N, C, H, W) of any N, its output `scores` floats (N, num_classes). Its metadata (the
    extra files of torch.export's) are the names of METADATA, each as JSON.

    Raises:
        ConfigurationError: packages for ONNX are missing.
        ExportError: the scores differ.
        RunFolderError: the run has no weights.
    """
    if to == "onnx" and (missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]):
        raise ConfigurationError(f"--to onnx needs {', '.join(missing)}: {installation('onnx')}")
    datamodule = run.build_datamodule()
    try:
        dataset, what = run.datamodule.splits["test"], "test images"
        images = dataset[torch.arange(min(NUM_CHECKED, len(dataset)))][0]
    except (ConfigurationError, DataUnavailableError, RunFolderError, OSError):
        shape = (NUM_CHECKED, datamodule.num_channels, datamodule.image_size, datamodule.image_size)
        images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).byte()
        what = "images of random bytes, as its test images cannot be had"
    model = FromBytes(run.classifier.network, datamodule).eval()
    path = run.path / FILES[to][0]
    incoming = path.with_name(f".incoming{path.suffix}")
    facts = {**datamodule.facts(), "run": run.path.resolve().name}
    metadata = {name: json.dumps(facts[name], ensure_ascii=False) for name in METADATA}
    write, execute = (_write_onnx, _run_onnx) if to == "onnx" else (_write_torch, _run_torch)
    try:
        write(model, images, metadata, incoming)
        with torch.inference_mode():
            expected = model(images)
        scores = execute(incoming, images)
        difference = (scores - expected).abs().max().item()
        allowed = TOLERANCE * expected.abs().max().item()
        agree = torch.equal(scores.argmax(dim=1), expected.argmax(dim=1))
        if not (difference <= allowed and agree):
            raise ExportError(
                f"The exported program gave other scores on {len(images)} images (difference {difference:.3g}, allowed "
                f"{allowed:.3g}), so it was not put in place. {path} is as it was."
            )
        incoming.replace(path)
    finally:
        incoming.unlink(missing_ok=True)
    return Exported(path, difference, len(images), tuple(images.shape[1:]), expected.shape[1], what)


def _write_torch(model: nn.Module, images: Tensor, metadata: dict[str, str], path: Path) -> None:
    program = torch.export.export(model, (images,), dynamic_shapes=BATCHES)
    with warnings.catch_warnings(action="ignore"):  # torch warns of itself, and the result is checked after
        torch.export.save(program, path, extra_files=dict(metadata))


def _run_torch(path: Path, images: Tensor) -> Tensor:
    return torch.export.load(path).module()(images)


def _write_onnx(model: nn.Module, images: Tensor, metadata: dict[str, str], path: Path) -> None:
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        program: Any = torch.onnx.export(
            model, (images,), input_names=["images"], output_names=["scores"], dynamic_shapes=BATCHES, dynamo=True,
            verbose=False,
        )  # fmt: skip
    program.model.metadata_props.update(metadata)
    program.save(path)


def _run_onnx(path: Path, images: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"images": images.numpy()})
    return torch.from_numpy(np.asarray(scores))
