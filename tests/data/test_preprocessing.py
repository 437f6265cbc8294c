import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import normalize

from convnets.data import FashionMNISTSampleDataModule
from convnets.data.archive import read_idx
from convnets.data.fashion_mnist import SAMPLE_DIR
from convnets.data.preprocessing import channel_statistics, to_network_input
from convnets.data.sampling import ImageBatches


@pytest.fixture(scope="module")
def images():
    return read_idx(SAMPLE_DIR / "t10k-images-idx3-ubyte").unsqueeze(1)


@pytest.mark.parametrize("size", [1, 7, 20, 27, 28, 29, 32, 64, 96, 224])
def test_resize_equals_pils_to_one_grey_level(images, size):
    ours = to_network_input(images[:40], size)
    assert ours.shape == (40, 1, size, size)
    for image, ours_of_it in zip(images[:40], ours, strict=True):
        pil = Image.fromarray(image[0].numpy()).resize((size, size), Image.Resampling.BILINEAR)
        theirs = torch.from_numpy(np.array(pil)).float() / 255
        assert (ours_of_it[0] - theirs).abs().max() <= 1 / 255 + 1e-6


def test_bytes_become_zero_to_one_and_stay_untouched(images):
    before = images.clone()
    ours = to_network_input(images, 28)
    assert ours.dtype == torch.float32
    assert ours.min() == 0
    assert ours.max() == 1
    assert torch.equal(images, before)


def test_statistics_are_exact_and_the_set_is_read_in_parts(monkeypatch):
    images = torch.randint(256, (301, 3, 20, 30), generator=torch.Generator().manual_seed(0)).byte()
    images[:, 1] //= 3
    images[:7, 2] = 255
    monkeypatch.setattr("convnets.data.preprocessing.CHUNK", 10 * images[0].nbytes)
    mean, std = channel_statistics(ImageBatches(images, torch.zeros(301, dtype=torch.int64)))
    scaled = images.numpy() / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std(axis=(0, 2, 3)), rtol=1e-12)
    normalised = to_network_input(images, 40, mean, std)
    expected = normalize(to_network_input(images, 40), mean, std)
    torch.testing.assert_close(normalised, expected)


def test_a_channel_without_spread_is_refused():
    images = torch.full((4, 2, 5, 5), 9, dtype=torch.uint8)
    images[0, 0, 0, 0] = 8
    with pytest.raises(ValueError, match=r"channel 1 of the training images is 9 everywhere.* data\.normalize=none"):
        channel_statistics(ImageBatches(images, torch.zeros(4, dtype=torch.int64)))


def test_normalised_training_images_have_mean_0_and_deviation_1():
    datamodule = FashionMNISTSampleDataModule(normalize="standard", holdout=100)
    datamodule.setup()
    ready = datamodule.to_network_input(datamodule.splits["train"][torch.arange(900)][0])  # those that train, alone
    assert ready.mean().abs() < 1e-5
    assert ready.std(correction=0) == pytest.approx(1, abs=1e-5)
