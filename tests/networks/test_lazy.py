"""Networks in the book's style, whose layers take their sizes from their first input, do all that others do."""

import pytest
import safetensors.torch
import torch
from torch import nn

from convnets.configuration.rules import ConfigurationError
from convnets.networks import LeNet, give_sizes
from convnets.results.evaluation import evaluate
from convnets.results.trained_run import TrainedRun as Run
from convnets.training.building import build_classifier, build_datamodule
from convnets.training.layer_summary import describe_network
from convnets.training.train import train


class LazyNet(nn.Sequential):
    """Convolution, batch norm and dense layers without sizes, as in Dive into Deep Learning 8.5, between sized ones."""

    def __init__(self, image_size=28, in_channels=1, num_classes=10):
        super().__init__(
            nn.Conv2d(in_channels, 4, kernel_size=3),
            nn.BatchNorm2d(4),
            nn.LazyConv2d(8, kernel_size=5, stride=2),
            nn.LazyBatchNorm2d(),
            nn.Sigmoid(),
            nn.Dropout(0.1),
            nn.Flatten(),
            nn.LazyLinear(20),
            nn.ReLU(),
            nn.LazyLinear(num_classes),
        )


class Sized(nn.Sequential):
    """The same with its sizes written out."""

    def __init__(self, image_size=28, in_channels=1, num_classes=10):
        super().__init__(
            nn.Conv2d(in_channels, 4, kernel_size=3),
            nn.BatchNorm2d(4),
            nn.Conv2d(4, 8, kernel_size=5, stride=2),
            nn.BatchNorm2d(8),
            nn.Sigmoid(),
            nn.Dropout(0.1),
            nn.Flatten(),
            nn.Linear(8 * ((image_size - 5) // 2) ** 2, 20),
            nn.ReLU(),
            nn.Linear(20, num_classes),
        )


class InTraining(nn.Module):
    """Uses a second head in training only, with batch norm over one value an image."""

    def __init__(self, image_size=28, in_channels=1, num_classes=10):
        super().__init__()
        self.head = nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
        self.aside = nn.Sequential(
            nn.BatchNorm2d(in_channels), nn.AdaptiveAvgPool2d(1), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(10)
        )

    def forward(self, images):
        scores = self.head(images)
        return scores + self.aside(images) if self.training else scores


class Unused(nn.Sequential):
    def __init__(self, image_size, in_channels, num_classes):
        super().__init__(nn.Flatten(), nn.LazyLinear(num_classes))
        self[1].aside = nn.LazyLinear(3)


class TooNarrow(nn.Sequential):
    def __init__(self, image_size, in_channels, num_classes):
        super().__init__(nn.LazyConv2d(4, kernel_size=31), nn.Flatten(), nn.LazyLinear(num_classes))


@pytest.fixture
def own(small):
    """Configurations of a network of a user's."""

    def own(network, *overrides):
        config = small(*overrides)
        for key in {*config.model} - {"name", "lr", "image_size", "_target_"}:
            config.model.pop(key)
        config.model._target_ = target(network)
        return config

    return own


def target(network):
    return f"{__name__}.{network.__name__}"


def built(config):
    return build_classifier(config, build_datamodule(config)).network


def test_sizes_weights_and_statistics_are_those_of_the_same_network_with_sizes(own):
    torch.manual_seed(1)
    lazy = built(own(LazyNet))
    torch.manual_seed(2)  # whatever was drawn before
    again, sized = built(own(LazyNet)), built(own(Sized))
    assert str(lazy) == str(sized).replace("Sized", "LazyNet")
    ours, others, expected = (network.state_dict() for network in (lazy, again, sized))
    assert {name: value.shape for name, value in ours.items()} == {k: v.shape for k, v in expected.items()}
    assert all(torch.equal(value, others[name]) for name, value in ours.items())
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked", "3.running_mean", "3.num_batches_tracked"):
        assert torch.equal(ours[name], expected[name])
    assert not torch.equal(ours["7.bias"], built(own(LazyNet, "seed=1")).state_dict()["7.bias"])
    assert lazy.training
    assert all(module.training for module in lazy.modules())


def test_a_network_with_sizes_is_not_run_and_draws_nothing(own, monkeypatch):
    torch.manual_seed(0)
    expected = LeNet().state_dict()
    state = torch.get_rng_state()
    torch.manual_seed(0)
    network = LeNet()
    monkeypatch.setattr(LeNet, "forward", None)
    give_sizes(network, 28, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_layers_used_in_training_only_get_sizes_and_fresh_statistics(own):
    network = built(own(InTraining))
    assert network.aside[4].weight.shape == (10, 1)
    for layer in (network.aside[0], network.aside[2]):
        assert layer.running_mean.tolist() == [0]
        assert layer.running_var.tolist() == [1]
        assert layer.num_batches_tracked.item() == 0


@pytest.mark.parametrize("overrides", [(), ("data.resize=32", "compile=true")])
def test_it_trains_resumes_and_is_evaluated(own, tmp_path, monkeypatch, overrides):
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode, **options: compile(model, backend="eager", **options))
    kept = ("checkpoint.keep=true", *overrides)
    train(own(LazyNet, *kept), tmp_path / "whole")
    log = (tmp_path / "whole" / "train.log").read_text()
    assert "XavierInit: weights of 4 layers" in log
    sized = built(own(Sized, *overrides))
    assert f"({sum(parameter.numel() for parameter in sized.parameters()):,} parameters)" in log

    train(own(LazyNet, *kept, "trainer.max_epochs=1"), tmp_path / "resumed")
    for name in ("result.json", "config.yaml"):
        (tmp_path / "resumed" / name).unlink()
    Run(tmp_path / "resumed").save_config(own(LazyNet, *kept))
    train(own(LazyNet, *kept), tmp_path / "resumed")
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]

    run = Run(tmp_path / "whole", trust=[target(LazyNet)])
    stored = safetensors.torch.load_file(tmp_path / "whole" / "weights.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in run.classifier.network.state_dict().items())
    assert evaluate(run, "test")["accuracy"] == run.metrics["val/accuracy"]


def test_its_layer_summary_is_that_of_the_same_network_with_sizes(own):
    lazy, sized = (describe_network(own(network, "data.batch_size=8")) for network in (LazyNet, Sized))
    assert lazy == sized


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Unused, r"Unused does not use its layer 1\.aside, so its size is not known: use it in forward, remove it"),
        (TooNarrow, r"TooNarrow does not take images of shape \(1, 28, 28\): .*[Kk]ernel size.*HYDRA_FULL_ERROR=1"),
    ],
)
def test_what_gets_no_size_is_refused(own, tmp_path, network, said):
    with pytest.raises(ConfigurationError, match=said):
        train(own(network), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()
