"""A training that is asked to pause after an epoch, and goes on to the same bits."""

import json

import pytest
from support.breaking import KEPT, everything

from convnets.callbacks import PAUSE_FILE
from convnets.results.trained_run import TrainedRun as Run
from convnets.training.train import train


def pause_after(folder, epoch):
    folder.mkdir(exist_ok=True)
    (folder / PAUSE_FILE).write_text(json.dumps({"after_epoch": epoch}))


@pytest.mark.parametrize("way", [(), ("schedule=cosine", "data.folds=10", "averaging=ema", "optimizer=adamw")])
def test_a_paused_run_goes_on_to_the_same_bits(small, tmp_path, way):
    config = small("logger=tensorboard", KEPT, "trainer.max_epochs=3", *way)
    uninterrupted = train(config, tmp_path / "whole")
    paused = tmp_path / "paused"
    for epoch in (1, 2, 2):  # the last time there is nothing to do
        pause_after(paused, epoch)
        reached = train(config, paused)["metrics"]
        run = Run(paused)
        assert (run.state, run.epoch, run.result) == ("paused", epoch, {})
        accuracies = [row["val/accuracy"] for row in run.history]
        assert len(accuracies) == epoch
        assert reached["val/accuracy"] == pytest.approx(max(accuracies) if way else accuracies[-1])
    (paused / PAUSE_FILE).unlink()
    assert train(config, paused)["metrics"] == uninterrupted["metrics"]
    assert everything(paused) == everything(tmp_path / "whole")


def test_a_run_that_ends_at_the_epoch_is_not_paused(small, tmp_path):
    config = small("trainer.max_epochs=2")
    pause_after(tmp_path / "run", 2)
    train(config, tmp_path / "run")
    assert Run(tmp_path / "run").state == "done"
    assert not (tmp_path / "run" / PAUSE_FILE).exists(), "which tells a search that it was no pause"
