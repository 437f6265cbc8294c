from functools import partial
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from lightning import Callback
from omegaconf import OmegaConf
from torch import nn

from convnets.callbacks import MovingAverage
from convnets.classifier import Classifier
from convnets.results.evaluation import evaluate
from convnets.results.trained_run import TrainedRun
from convnets.training.train import train


class Watch(Callback):
    """Keeps the weights, and batch norm's statistics, after each step of the optimizer."""

    def __init__(self):
        self.after = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.after.append({name: value.clone() for name, value in pl_module.network.state_dict().items()})


def average(states, decay):
    """By a plain loop, in float64."""
    result = {name: value.double() for name, value in states[0].items()}
    for step, state in enumerate(states[1:], start=2):
        kept = min(decay, (step - 1) / (step + 8))
        result = {name: kept * value + (1 - kept) * state[name].double() for name, value in result.items()}
    return result


NORMED = ("model.norm=batch", "model.lr=0.5", "averaging=ema", "trainer.limit_train_batches=8")


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_saved_weights_are_the_average_by_a_plain_loop_and_the_raw_ones_lie_beside(small, tmp_path, decay):
    watch = Watch()
    result = train(small(*NORMED, f"averaging.decay={decay}"), tmp_path / "run", [watch])
    weights, raw = (
        safetensors.torch.load_file(tmp_path / "run" / f"weights{kind}.safetensors") for kind in ("", "_raw")
    )
    for name, expected in average(watch.after, decay).items():
        if "num_batches" in name:
            expected = watch.after[-1][name].double()
        torch.testing.assert_close(weights[name].double(), expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(raw[name], watch.after[-1][name])
    assert not torch.equal(weights["0.weight"], raw["0.weight"])
    evaluation = evaluate(TrainedRun(tmp_path / "run"), "val")
    assert evaluation["accuracy"] == result["metrics"]["val/accuracy"]
    assert evaluation["loss"] == pytest.approx(result["metrics"]["val/loss"], rel=1e-5)


def test_with_held_out_images_average_and_raw_weights_are_those_of_the_best_epoch(small, tmp_path):
    """A rate far too high for the second epoch makes the first the best."""
    watch = Watch()
    rate = {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [1], "gamma": 500.0, "_partial_": True}
    config = OmegaConf.merge(small(*NORMED, "data.holdout=100"), {"schedule": rate})
    assert train(config, tmp_path / "run", [watch])["weights_of_epoch"] == 1
    weights, raw = (
        safetensors.torch.load_file(tmp_path / "run" / f"weights{kind}.safetensors") for kind in ("", "_raw")
    )
    first = watch.after[: len(watch.after) // 2]
    assert torch.equal(raw["0.weight"], first[-1]["0.weight"])
    torch.testing.assert_close(weights["0.weight"].double(), average(first, 0.999)["0.weight"], rtol=1e-4, atol=1e-6)


def test_a_run_without_an_average_has_no_raw_weights(small, tmp_path):
    train(small(), tmp_path / "run")
    assert not (tmp_path / "run" / "weights_raw.safetensors").exists()


def test_the_average_is_made_where_the_weights_are_once_the_training_starts():
    """Lightning makes it before it moves the weights to a GPU, for which the device without memory stands here."""
    callback, classifier = MovingAverage(), Classifier(nn.Linear(2, 2), partial(torch.optim.SGD, lr=0.1))
    callback.setup(SimpleNamespace(), classifier, "fit")
    classifier.to("meta")
    optimizer = classifier.build_optimizer()
    callback.on_train_start(SimpleNamespace(optimizers=[optimizer]), classifier)
    for parameter in classifier.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert {tensor.device.type for tensor in callback._average_model.state_dict().values()} == {"meta"}
