"""A loop over tensors in memory, in plain PyTorch: no Lightning, metric, bar or log. It needs nothing but torch."""

import gzip
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convnets
from convnets.benchmark.measuring import Marks, Task
from convnets.device import prepare_process
from convnets.networks import VGG, LeNet, ResNet18

# Network, side of its images, learning rate: the recipes of conf/, for which Hydra would be needed.
RECIPES: Mapping[str, tuple[type[nn.Module], int, float]] = {
    "lenet": (LeNet, 28, 0.1),
    "vgg": (VGG, 224, 0.01),
    "resnet18": (ResNet18, 96, 0.01),
}
DATA_DIRS = {
    "fashion_mnist": Path("~/.cache/convnets/fashion-mnist").expanduser(),
    "fashion_mnist_sample": Path(convnets.__file__).parent / "data" / "sample",
}
SPLITS = {"train": "train", "val": "t10k"}
HEADERS = {"images-idx3": 16, "labels-idx1": 8}  # bytes before the first image or label


def train(task: Task, marks: Marks) -> None:
    """Train by the recipe, with the options of our own training that are set by default."""
    make, image_size, lr = RECIPES[task.model]
    size = task.resize or image_size
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prepare_process(device.type == "cuda", "high", deterministic=False)
    network = make(image_size=size, in_channels=1, num_classes=10).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=task.precision == "bf16-mixed")
    folder = DATA_DIRS[task.data] if task.data_dir is None else Path(task.data_dir)
    splits = {split: [part.to(device) for part in read_split(folder, split)] for split in SPLITS}

    def batches(split: str, shuffled: bool) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = splits[split]
        order = torch.randperm(len(labels), device=device) if shuffled else torch.arange(len(labels), device=device)
        for numbers in order.split(task.batch_size):
            yield to_input(images[numbers], size).to(memory_format=torch.channels_last), labels[numbers]

    for _ in range(task.num_epochs):
        network.train()
        for images, labels in itertools.islice(batches("train", shuffled=True), task.num_steps):
            with bf16:
                loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        num_correct = torch.zeros((), dtype=torch.int64, device=device)
        for images, labels in itertools.islice(batches("val", shuffled=False), task.num_val_batches):
            marks.validation_batch()
            with bf16, torch.no_grad():
                num_correct += (network(images).argmax(dim=1) == labels).sum()
        num_correct.item()


def read_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28), bytes, and labels (N,), int64, of Fashion-MNIST's files, raw or .gz.

    Raises:
        SystemExit: the folder has no such files.
    """
    parts = []
    for kind, start in HEADERS.items():
        path = folder / f"{SPLITS[split]}-{kind}-ubyte"
        packed = path.with_name(f"{path.name}.gz")
        if not path.exists() and not packed.exists():
            raise SystemExit(
                f"There is no {path}, raw or .gz: name the folder of Fashion-MNIST's files with --data-dir."
            )
        content = bytearray(path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes()))
        parts.append(torch.frombuffer(content, dtype=torch.uint8, offset=start))
    return parts[0].view(-1, 1, 28, 28), parts[1].long()


def to_input(images: Tensor, size: int) -> Tensor:
    """Images of bytes as floats from 0 to 1, resized in whole grey levels as our own training does."""
    if images.shape[-1] != size:
        exact = images.float() if images.is_cuda else images  # only a CPU resizes bytes
        images = F.interpolate(exact, (size, size), mode="bilinear", antialias=True).round_()
    return images.div(255)
