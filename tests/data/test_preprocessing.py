import numpy as np
import pytest
import torch
from PIL import Image

from convnets.data.archive import read_idx
from convnets.data.fashion_mnist import SAMPLE_DIR
from convnets.data.preprocessing import shift_flip, to_network_input


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


def variants(image):
    """Every image that shift_flip may make of one, as (C, H, W) tensors."""
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    for down in range(5):
        for right in range(5):
            shifted = padded[:, down : down + image.shape[1], right : right + image.shape[2]]
            yield shifted
            window = torch.nn.functional.pad(image.flip(2), (2, 2, 2, 2))
            yield window[:, down : down + image.shape[1], right : right + image.shape[2]]


def test_each_image_is_shifted_and_flipped_by_itself(images):
    batch = images.repeat(1, 3, 1, 1) + torch.arange(3, dtype=torch.uint8).view(1, 3, 1, 1)  # three channels
    augmented = shift_flip(batch[:30], torch.Generator().manual_seed(0))
    assert augmented.shape == batch[:30].shape
    assert augmented.dtype == torch.uint8
    chosen = []
    for image, changed in zip(batch[:30], augmented, strict=True):
        matches = [index for index, variant in enumerate(variants(image)) if torch.equal(variant, changed)]
        assert matches
        chosen.append(matches[0])
    assert len(set(chosen)) > 10


def test_augmentation_is_a_function_of_its_generator(images):
    first, again, other = (shift_flip(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
