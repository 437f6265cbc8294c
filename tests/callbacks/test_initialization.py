import logging
import math

import lightning
import pytest
import torch
from torch import nn

from convnets.callbacks import KaimingInit, NothingInitializedError, XavierInit
from convnets.classifier import Classifier
from convnets.networks import VGG, LeNet
from convnets.training.building import build_classifier, build_datamodule, build_trainer


def initialized(callback, network):
    callback.setup(lightning.Trainer(accelerator="cpu", logger=False), Classifier(network), "fit")
    return network


@pytest.mark.parametrize(
    ("callback", "bound"),
    [
        (XavierInit(), lambda fan_in, fan_out: math.sqrt(6 / (fan_in + fan_out))),
        (KaimingInit(), lambda fan_in, fan_out: math.sqrt(6 / fan_in)),
    ],
)
def test_weights_fill_their_bounds_and_biases_stay(callback, bound, caplog):
    caplog.set_level(logging.INFO)
    network = VGG(image_size=32)
    biases = {name: value.clone() for name, value in network.named_parameters() if name.endswith("bias")}
    initialized(callback, network)
    layers = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        receptive_field = layer.weight[0, 0].numel()
        limit = bound(layer.weight.shape[1] * receptive_field, layer.weight.shape[0] * receptive_field)
        assert layer.weight.abs().max() <= limit
        assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.15)  # of a uniform distribution
    for name, value in network.named_parameters():
        if name in biases:
            assert torch.equal(value, biases[name])
    assert f"{type(callback).__name__}: weights of {len(layers)} layers" in caplog.text


def test_a_network_without_such_layers_is_refused():
    with pytest.raises(
        NothingInitializedError, match=r"XavierInit found no convolution or linear layer .* init=default"
    ):
        initialized(XavierInit(), nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784)))


def test_tested_weights_are_left_alone(small, tmp_path):
    config = small()
    datamodule = build_datamodule(config)
    classifier = build_classifier(config, datamodule)
    before = [parameter.clone() for parameter in classifier.network.parameters()]
    trainer = build_trainer(config, tmp_path)
    assert any(isinstance(callback, XavierInit) for callback in trainer.callbacks)
    trainer.test(classifier, datamodule=datamodule, verbose=False)
    assert all(map(torch.equal, before, classifier.network.parameters()))


def test_resumed_weights_are_left_alone(small, tmp_path):
    config = small("trainer.max_epochs=1")
    datamodule = build_datamodule(config)
    classifier = build_classifier(config, datamodule)
    build_trainer(config, tmp_path).fit(classifier, datamodule=datamodule)
    resumed = build_classifier(config, datamodule)
    trainer = build_trainer(config, tmp_path)
    trainer.fit(resumed, datamodule=datamodule, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert trainer.global_step == 3
    assert all(map(torch.equal, classifier.network.parameters(), resumed.network.parameters()))


@pytest.mark.parametrize(("init", "changed"), [("xavier", True), ("kaiming", True), ("default", False)])
def test_init_is_chosen_by_the_configuration(small, tmp_path, init, changed):
    config = small(f"init={init}")
    trainer = build_trainer(config, tmp_path)
    torch.manual_seed(0)
    network = LeNet()
    before = network[0].weight.clone()
    for callback in trainer.callbacks:
        callback.setup(trainer, Classifier(network), "fit")
    assert torch.equal(before, network[0].weight) != changed
