import pytest
import torch

from convnets.callbacks import NonFiniteLossError
from convnets.results.trained_run import TrainedRun as Run
from convnets.training.train import train


def test_a_diverged_training_is_stopped_marked_and_keeps_the_last_good_checkpoint(small, tmp_path, monkeypatch):
    from convnets.classifier import Classifier

    step = Classifier.training_step

    def failing_step(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        if self.trainer.current_epoch == 1 and batch_idx == 1:
            self.train_tally.loss_sum += float("nan")
            return loss * float("nan")
        return loss

    monkeypatch.setattr(Classifier, "training_step", failing_step)
    with pytest.raises(NonFiniteLossError, match=r"train/loss became nan in epoch 2: .* Lower model.lr \(it was 0.1\)"):
        train(small("trainer.max_epochs=5"), tmp_path)
    status = Run(tmp_path).status
    assert status["state"] == "failed"
    assert status["epoch"] == 1
    assert "epoch 2" in status["error"]
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 0
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    assert not (tmp_path / "result.json").exists()
    log = (tmp_path / "train.log").read_text()
    assert "Traceback" in log
    assert "NonFiniteLossError" in log


def test_a_real_divergence_is_caught(small, tmp_path):
    with pytest.raises(NonFiniteLossError, match="the training has diverged"):
        train(
            small("model=vgg", "data.resize=32", "model.lr=1e9", "model.blocks=[[1,8],[1,8]]", "model.hidden=[32,32]"),
            tmp_path,
        )


def test_weights_ruined_by_the_very_last_step_are_caught_in_validation(small, tmp_path, monkeypatch):
    from convnets.classifier import Classifier

    def ruin(self):
        with torch.no_grad():
            next(self.parameters()).fill_(float("nan"))

    monkeypatch.setattr(Classifier, "on_validation_start", ruin)
    with pytest.raises(NonFiniteLossError, match="val/loss became nan in epoch 1"):
        train(small(), tmp_path)
    assert not (tmp_path / "checkpoints").exists()
