import copy
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig
from support import commands
from tensorboard.summary.writer import event_file_writer

from convnets.training import command
from convnets.training.train import train

# In the background of a shell script Ctrl-C is ignored, by the children too; tests send it to them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As in an environment that was entered: messages name `python`, and the commands in them are run.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

# TensorBoard reads the files of a second in the order of their number in the process, as text: a test process makes
# many more than a training, and its tenth would come before its ninth.
event_file_writer._global_uid = event_file_writer.AtomicCounter(1000)


@pytest.fixture(scope="session")
def compose() -> Callable[..., DictConfig]:
    """Compose what scripts/train.py would be given, resolved; what does not ask for files, once."""

    @functools.cache
    def composed(overrides: tuple[str, ...], folder: Path, home: str | None) -> DictConfig:
        return command.compose(overrides)[0]

    def compose(*overrides: str) -> DictConfig:
        asked = ["data.dir=photos"] if "data=image_folder" in overrides else []  # of whoever chooses it
        words = (*asked, *overrides)
        if any(word.startswith(("init.from_run=", "model.weights=", "hydra.", "experiment=")) for word in words):
            return command.compose(words)[0]
        return copy.deepcopy(composed(words, Path.cwd(), os.environ.get("HOME")))

    return compose


@pytest.fixture(scope="session")
def small(compose: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """A quick run on packaged images, silent."""

    def small(*overrides: str) -> DictConfig:
        quick = ["data=fashion_mnist_sample", "trainer=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=3"]
        return compose(*quick, "callbacks=none", "logger=none", *overrides)

    return small


@pytest.fixture(scope="session")
def trained(small: Callable[..., DictConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `small()`, to be copied."""
    train(small(), path := tmp_path_factory.mktemp("trained"))
    return path


@pytest.fixture
def run_script(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run scripts/NAME as a user does, in an empty folder, so that its outputs/ is not ours."""
    return functools.partial(commands.run, tmp_path)
