"""A finished run without checkpoints gets more epochs: it is trained again to the same bits, then on."""

import re
import shlex
from pathlib import Path

import pytest
from support import commands
from support.breaking import At, PulledPlugError, pull_the_plug, without_times
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from convnets.files import RunFolderError
from convnets.runs.run import Run
from convnets.training.extend import extend
from convnets.training.retraining import FOLDER, go_on
from convnets.training.train import train


def contents(path):
    """What a longer training leaves, but for times."""
    points = EventAccumulator(str(path)).Reload().Scalars("train/loss")
    return {
        "weights": (path / "weights.safetensors").read_bytes(),
        "rows": [without_times(row) for row in Run(path).history],
        "result": without_times(Run(path).result),
        "points": [(point.step, point.value) for point in points],
    }


def test_a_retrained_run_equals_one_that_was_as_long_from_the_start(small, tmp_path):
    run = Run(tmp_path / "my run")
    train(small("logger=tensorboard"), run.path)
    train(small("logger=tensorboard", "trainer.max_epochs=4"), tmp_path / "whole")
    before = contents(run.path)
    with pytest.raises(
        RunFolderError, match=r"its 2 epochs would be trained again .* and 2 more, in about \d"
    ) as refused:
        extend(run, ["trainer.max_epochs=4"])
    config = extend(run, ["trainer.max_epochs=4"], retrain=True)
    with pytest.raises(PulledPlugError):
        train(config, run.path / FOLDER, [At(5, pull_the_plug)])
    assert contents(run.path) == before
    assert extend(run, []) == run.config  # still the run of two epochs
    python, script, *words = shlex.split(re.search("To do so: (.*)", str(refused.value))[1])
    done = commands.run(Path.cwd(), Path(script).name, *words)
    assert (python, done.returncode) == ("python", 0), done.stderr
    assert "going on after epoch 1, at step 3" in done.stdout + done.stderr
    assert done.stdout.endswith(
        "my run/.retraining is no more. The first ones came out as before, to the last digit.\n"
    )
    assert contents(run.path) == contents(tmp_path / "whole")
    assert not (run.path / FOLDER).exists()


def test_a_run_stays_as_it_is_where_its_first_epochs_come_out_otherwise(small, tmp_path):
    run = Run(tmp_path / "run")
    train(small("trainer.max_epochs=1"), run.path)
    (loss,) = (row["val/loss"] for row in run.history)
    csv = run.path / "metrics.csv"
    csv.write_text(csv.read_text().replace(str(loss), "2.5"))
    weights = (run.path / "weights.safetensors").read_bytes()
    go_on(run, ["trainer.max_epochs=2"], retrain=True)  # another number of epochs, left behind
    message = go_on(Run(run.path), ["trainer.max_epochs=3"], retrain=True)
    assert f"val/loss of epoch 1 was 2.5 and came out as {loss}, as it may with" in message
    assert (run.path / "weights.safetensors").read_bytes() == weights
    assert [row["epoch"] for row in Run(run.path / FOLDER).history] == [1, 2, 3]


def test_a_run_may_be_called_retraining(small, tmp_path):
    (tmp_path / "18 layers").mkdir()
    train(small("trainer.max_epochs=1"), tmp_path / "retraining")
    assert go_on(Run(tmp_path / "retraining")) is None
    assert {path.name for path in tmp_path.iterdir()} >= {"18 layers", "retraining"}
