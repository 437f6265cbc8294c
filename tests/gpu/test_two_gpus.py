"""Two GPUs train together what one does."""

import json
import os
import signal
from pathlib import Path

import pytest
from support.gpu import SAMPLE, Trained
from support.waiting import wait_until

pytestmark = pytest.mark.two_gpus
ONE = ("trainer=gpu",)
TWO = ("trainer=ddp", "trainer.accelerator=gpu", "trainer.devices=2")
NETWORK = ("model=resnet18", "data.resize=32", "data.batch_size=64", "trainer.matmul_precision=highest")
ONE_STEP = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "data.batch_size=64")


@pytest.fixture
def train(run, tmp_path):
    """As a command, which the other process is started as too."""

    def train(name, *words):
        code, said = run("train.py", *SAMPLE, f"hydra.run.dir={tmp_path / name}", *words)
        assert code == 0, said
        return Trained(tmp_path / name)

    return train


def test_two_take_the_step_of_one(moved_apart):
    assert moved_apart(ONE, TWO, *ONE_STEP, "model.activation=relu", "trainer.matmul_precision=highest") < 1e-3


def test_batch_norm_counts_over_both_unless_told_otherwise(train):
    own = (*TWO, "trainer.sync_batchnorm=false")
    one, both, half = (
        train(name, *NETWORK, *ONE_STEP, *words).tensor("0.1.running_mean")  # of the stem, after a step
        for name, words in (("one", ONE), ("both", TWO), ("half", own))
    )
    assert (both - one).norm() < 1e-4 * one.norm()
    assert (half - one).norm() > 1e-3 * one.norm()


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_when_a_rank_is_killed_the_other_ends_and_the_same_command_goes_on(train, command, tmp_path):
    words = (*NETWORK, *TWO, "trainer.deterministic=true", "trainer.max_epochs=6", "checkpoint.every_seconds=0.2")
    whole = train("whole", *words)
    status = tmp_path / "killed" / "status.json"
    process = command("train.py", *SAMPLE, f"hydra.run.dir={tmp_path / 'killed'}", *words)
    wait_until(lambda: status.exists() and json.loads(status.read_text()).get("epoch", 0) >= 2)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    killed = train("killed", *words)
    assert killed.bits == whole.bits
    assert killed.rows == whole.rows
