"""Trainings on a GPU, in this process where one does, for a process takes as long to start as such a training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.gpu import SAMPLE, Trained
from support.repository import ROOT

import convnets.training.train

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
                reason = f"NOT TESTED: needs {'a GPU' if needed == 1 else 'two GPUs'}, and torch finds {NUM_GPUS}"
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
