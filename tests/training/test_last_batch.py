"""A batch that is too small for the network is found before the training, and the ways out that are named work."""

import itertools
import re

import pytest
import torch
from torch import nn

import convnets.training.checks
from convnets.configuration.rules import ConfigurationError
from convnets.data.sampling import BatchSampler
from convnets.networks import ResNet18
from convnets.training.last_batch import Sharing, check_last_batch
from convnets.training.train import train

EPOCH = ("trainer.max_epochs=1", "trainer.limit_train_batches=null")


class Normalized(nn.Sequential):
    """Batch norm over one value an image, as after ResNet18's last stage of 32 pixels."""

    def __init__(self, image_size=28, in_channels=1, num_classes=10):
        super().__init__(
            nn.Conv2d(in_channels, 16, kernel_size=image_size),
            nn.BatchNorm2d(16),
            nn.Flatten(),
            nn.Linear(16, num_classes),
        )


class Standardized(nn.Module):
    """Divides by the standard deviation over the batch, which of one image is not a number."""

    def __init__(self, image_size=28, in_channels=1, num_classes=10):
        super().__init__()
        self.linear = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, images):
        pixels = images.flatten(1)
        return self.linear((pixels - pixels.mean(0)) / (pixels.std(0) + 1e-3))


class Demanding(nn.Module):
    """Takes four images or more."""

    def __init__(self, image_size=28, in_channels=1, num_classes=10):
        super().__init__()
        self.linear = nn.Linear(in_channels * image_size**2, num_classes)

    def forward(self, images):
        if len(images) < 4:
            raise ValueError(f"Four or more, please, got {len(images)}.\nAnd so on.")
        return self.linear(images.flatten(1))


class Broken(nn.Module):
    def __init__(self, image_size, in_channels, num_classes):
        super().__init__()
        self.linear = nn.Linear(1, num_classes)

    def forward(self, images):
        return self.linear(images.flatten(1))


@pytest.fixture
def fits(small):
    """Configurations of a network of a user's, which takes no options of ours."""

    def fits(network, *overrides):
        config = small(*overrides)
        for key in {*config.model} - {"name", "lr", "image_size"}:
            del config.model[key]
        config.model._target_ = f"{__name__}.{network.__name__}"
        return config

    return fits


def shares(num_images, batch_size, num_devices, limit=None):
    """Images in each device's part of each batch, as the training's own sampler deals them out."""
    samplers = [BatchSampler(num_images, batch_size, None, rank, num_devices) for rank in range(num_devices)]
    return {len(share.numbers) for sampler in samplers for share in itertools.islice(sampler, limit)}


@pytest.mark.parametrize("num_devices", [1, 2, 3])
@pytest.mark.parametrize("limit", [None, 1, 3])
def test_sizes_are_those_that_the_sampler_deals_out(num_devices, limit):
    for num_images, batch_size in itertools.product(range(1, 25), range(1, 27)):
        sharing = Sharing(num_images, batch_size, num_devices, lambda number: min(number, limit or number))
        expected = shares(num_images, batch_size, num_devices, limit)
        if -(-num_images // batch_size) > 1 and limit == 1:
            expected |= shares(batch_size, batch_size, num_devices)
        assert sharing.sizes() == expected, sharing
        assert (sharing.smallest_share == 0) == (0 in shares(num_images, batch_size, num_devices))


def named(error):
    """The batch size that the refusal says to set."""
    return re.search(r" Set data\.batch_size=(\d+)\.$", str(error.value))[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("data.batch_size=999",),
            r"1,000 training images in batches of 999 leave a last batch of 1, too few for Norm",
        ),
        (
            ("data.batch_size=1",),
            r"Batches of 1 are too small for Normalized, which cannot be trained on one image \(Exp",
        ),
        (
            ("data.batch_size=333", "trainer.accumulate_grad_batches=2"),
            r"in batches of 333 leave a last batch of 1, too",
        ),
        (("data.batch_size=333", "steps_per_execution=2"), r"in batches of 333 leave a last batch of 1, too few for"),
        (
            ("data.batch_size=449", "data.holdout=101"),
            r"899 training images in batches of 449 leave a last batch of 1,",
        ),
    ],
)
def test_a_batch_too_small_for_batch_norm_is_refused_and_what_is_named_works(fits, tmp_path, overrides, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        train(fits(Normalized, *EPOCH, *overrides), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()
    if (size := named(error)) != "2":  # of which an epoch has 500
        assert train(fits(Normalized, *EPOCH, *overrides, f"data.batch_size={size}"), tmp_path / size)["epochs"] == 1


def test_a_last_batch_of_one_image_is_refused_to_resnet18(small, tmp_path):
    with pytest.raises(ConfigurationError, match=r"too few for ResNet18, .* Set data\.batch_size=998\."):
        train(small("model=resnet18", "data.resize=32", "data.batch_size=999", *EPOCH), tmp_path / "run")


def test_what_works_is_not_refused(fits, tmp_path):
    images = torch.rand(32, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    sharing = Sharing(1000, 999, 1, lambda number: number)
    check_last_batch(ResNet18(image_size=64), lambda number: images[:number], sharing)  # four values of an image
    cut_off = fits(Normalized, "data.batch_size=333", "trainer.limit_train_batches=1")
    assert train(cut_off, tmp_path / "cut off")["epochs"] == 2


@pytest.mark.parametrize(
    ("network", "batch_size", "message", "way_out"),
    [
        (Standardized, 333, "which cannot be trained on one image (its scores or gradients are not finite).", "332"),
        (Demanding, 499, "which cannot be trained on 2 images (Four or more, please, got 2).", "498"),
    ],
)
def test_whatever_a_network_refuses_is_found(fits, tmp_path, network, batch_size, message, way_out):
    with pytest.raises(ConfigurationError, match=re.escape(message)) as error:
        train(fits(network, f"data.batch_size={batch_size}", *EPOCH), tmp_path / "run")
    assert named(error) == way_out


def test_a_network_that_fails_on_any_batch_shows_its_own_traceback(fits, tmp_path):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(fits(Broken, "data.batch_size=999", "init=default", *EPOCH), tmp_path / "run")


def test_devices_that_get_too_few_are_refused_and_what_is_named_works(small, tmp_path):
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    for batch_size, message in (
        (999, "a last batch of 1, too few for 2 devices."),
        (499, "one image on one of 2 devices"),
    ):
        with pytest.raises(ConfigurationError, match=message) as error:
            train(
                small("model=resnet18", "data.resize=32", *EPOCH, *two, f"data.batch_size={batch_size}"),
                tmp_path / "run",
            )
        assert not (tmp_path / "run" / "config.yaml").exists()
        assert min(shares(1000, int(named(error)), 2)) >= 2


def test_batch_norm_over_all_devices_sees_the_whole_batch():
    network = ResNet18(image_size=32)
    images = torch.rand(32, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for whole in (True, False):
        sharing = Sharing(42, 10, 2, lambda number: number, whole)  # a last batch of two, one for each
        if whole:
            check_last_batch(network, lambda number: images[:number], sharing)
        else:
            with pytest.raises(ValueError, match="one image on one of 2 devices"):
                check_last_batch(network, lambda number: images[:number], sharing)


def test_trying_the_last_batch_changes_no_bit(small, tmp_path, monkeypatch):
    """Neither the weights drawn after it, nor dropout, nor running statistics."""
    small_resnet = ("model=resnet18", "data.resize=16", "data.batch_size=490")
    ways = {
        "resnet18": (*small_resnet, *EPOCH),
        "vgg": (
            "model=vgg",
            "model.blocks=[[1,4],[1,8]]",
            "model.hidden=[32,32]",
            "data.resize=16",
            "data.batch_size=490",
            *EPOCH,
        ),
    }
    for name, overrides in ways.items():
        train(small(*overrides), tmp_path / name / "looked")
    monkeypatch.setattr(convnets.training.checks, "check_last_batch", lambda *_: None)
    for name, overrides in ways.items():
        train(small(*overrides), tmp_path / name / "blind")
        looked, blind = ((tmp_path / name / way / "weights.safetensors").read_bytes() for way in ("looked", "blind"))
        assert looked == blind
