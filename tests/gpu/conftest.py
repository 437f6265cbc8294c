"""Trainings on a GPU, in this process where one does, for a process takes as long to start as such a training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.gpu import SAMPLE, Trained
from support.repository import ROOT
from torch import nn

import convnets.training.train
from convnets.data import FashionMNISTSampleDataModule
from convnets.device import why_no_gpu
from convnets.training.building import build_classifier, build_datamodule

# Two GPUs are for what several processes do together; everything else is the same on one of them.
NUM_GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # as Lightning sets it for the same bits, before all of them


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("gpu")
            item.add_marker(pytest.mark.filterwarnings("default"))  # torch tells of its prototypes, and of tf32
            needed = 2 if item.get_closest_marker("two_gpus") else 1
            if needed > NUM_GPUS:
                why = f"finds {NUM_GPUS}" if NUM_GPUS else f"has none ({why_no_gpu()})"
                reason = f"NOT TESTED: needs {'a GPU' if needed == 1 else 'two GPUs'}, and torch {why}"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def as_a_new_process():
    """What a training leaves in the process is not the next test's."""
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch.compiler.reset()


@pytest.fixture
def train(compose, tmp_path):
    """Train an epoch of the packaged images on a GPU, unless the words say otherwise, into the folder `name`."""

    def train(name, *words, watch=()):
        peaks = [f"callbacks.throughput.peaks_path={tmp_path}/peaks.json"] if "callbacks=default" in words else []
        config = compose(*SAMPLE, "trainer.max_epochs=1", *words, *peaks)
        convnets.training.train.train(config, tmp_path / name, watch)
        return Trained(tmp_path / name)

    return train


@pytest.fixture
def moved_apart(train):
    """How far the ends of two trainings are from each other, as a share of how far one went from its start."""

    def moved_apart(one, other, *words):
        start = train("start", *words, *one, "model.lr=1e-30").weights
        end, other_end = train("one", *words, *one).weights, train("other", *words, *other).weights
        assert (end - start).norm() > 1e-4 * start.norm()
        return ((end - other_end).norm() / (end - start).norm()).item()

    return moved_apart


@pytest.fixture
def gradients(compose):
    """Those of a batch of 32 packaged images, in float64, on a device; without dropout."""

    def gradients(device, *words):
        config = compose("data=fashion_mnist_sample", *words)
        datamodule = build_datamodule(config)
        datamodule.setup()
        network = build_classifier(config, datamodule).network.double().to(device)
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0
        images, labels = datamodule.splits["train"][torch.arange(32)]
        inputs = datamodule.to_network_input(images).double()
        F.cross_entropy(network(inputs.to(device)), labels.to(device)).backward()
        return torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).cpu()

    return gradients


@pytest.fixture
def images():
    datamodule = FashionMNISTSampleDataModule()
    datamodule.setup()
    return datamodule.splits["test"].stored


@pytest.fixture
def command(tmp_path):
    """Start scripts/NAME in an empty folder; tests/ can be imported, as a user's own callbacks are."""

    def command(name, *words, **environment):
        paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment}
        return subprocess.Popen(
            [sys.executable, str(ROOT / "scripts" / name), *words],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    return command


@pytest.fixture
def run(command):
    """Run scripts/NAME to its end: its exit code and what it said."""

    def run(name, *words, **environment):
        process = command(name, *words, **environment)
        said, _ = process.communicate(timeout=240)
        return process.returncode, said

    return run
