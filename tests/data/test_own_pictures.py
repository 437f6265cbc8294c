import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.boots import BOOT, large, saved
from torchvision.transforms.v2.functional import center_crop, pil_to_tensor, resize

from convnets.data import FashionMNISTSampleDataModule
from convnets.data.own_pictures import cut_out, fill_square


def read_picture(path, size, background="auto"):
    with Image.open(path) as picture:
        image, assumed = cut_out(picture, size, background)
    assert image.shape == (1, size, size)
    return image[0], assumed


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(BOOT),
        Image.fromarray(BOOT).convert("RGB"),
        Image.fromarray(BOOT).convert("P"),
        Image.fromarray(BOOT).convert("RGBA"),
        Image.fromarray(BOOT).convert("LA"),
        Image.fromarray(BOOT.astype(np.uint16) * 257),
        Image.merge("RGBA", [Image.new("L", (28, 28), 255)] * 3 + [Image.fromarray(BOOT)]),
    ],
    ids=lambda image: image.mode,
)
def test_a_picture_of_the_very_size_is_taken_pixel_by_pixel(tmp_path, image):
    see_through = image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
    found, background = read_picture(saved(tmp_path, image), 28, "black" if see_through else "auto")
    assert background == "black"
    np.testing.assert_array_equal(found, BOOT)


def test_a_white_background_is_noticed_and_turned_black(tmp_path):
    path = saved(tmp_path, ImageOps.invert(Image.fromarray(BOOT)))
    found, background = read_picture(path, 28)
    assert background == "white"
    np.testing.assert_array_equal(found, BOOT)
    as_it_is, background = read_picture(path, 28, "black")
    assert background == "black"
    np.testing.assert_array_equal(as_it_is, 255 - BOOT)


@pytest.mark.parametrize("margin", [(0, 0), (100, 30), (5, 200)])
def test_margins_are_trimmed_and_the_object_centred(tmp_path, margin):
    plain, _ = read_picture(saved(tmp_path, large()), 28)
    framed, _ = read_picture(saved(tmp_path, ImageOps.expand(ImageOps.invert(large()), margin, 255)), 28)
    np.testing.assert_array_equal(framed, plain)
    columns, rows = (np.flatnonzero(framed.max(axis=axis) > 12) for axis in (0, 1))
    assert max(np.ptp(columns), np.ptp(rows)) == 27
    assert abs((27 - columns[-1]) - columns[0]) <= 1
    assert abs((27 - rows[-1]) - rows[0]) <= 1


def test_a_photograph_on_its_side_is_set_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    large().rotate(90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    found, _ = read_picture(tmp_path / "turned.jpg", 28)
    plain, _ = read_picture(saved(tmp_path, large()), 28)
    assert np.abs(found.astype(int) - plain).mean() < 3


def test_a_blank_picture_is_taken_as_it_is(tmp_path):
    found, background = read_picture(saved(tmp_path, Image.new("L", (50, 20), 255)), 28)
    assert background == "white"
    assert found.max() == 0


RED, GREEN, BLUE = (200, 30, 40), (10, 180, 60), (20, 60, 220)


def flag(width, height):
    """Red, green and blue upright bars."""
    picture = Image.new("RGB", (width, height))
    for number, color in enumerate((RED, GREEN, BLUE)):
        picture.paste(color, (width * number // 3, 0, width * (number + 1) // 3, height))
    return picture


@pytest.mark.parametrize("shape", [(32, 32), (90, 40), (40, 90), (16, 20), (501, 333)])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_the_middle_of_a_picture_fills_the_square(shape, num_channels):
    picture = flag(*shape).convert("RGB" if num_channels == 3 else "L")
    found = fill_square(picture, 32, num_channels)
    expected = center_crop(resize(pil_to_tensor(picture), [32], antialias=True), [32, 32]).numpy()
    assert found.shape == (num_channels, 32, 32)
    assert found.dtype == np.uint8
    # Torchvision rounds the cut to whole pixels after scaling, so edges of bars may differ by a part of one.
    assert np.median(np.abs(found.astype(int) - expected)) <= 1
    if shape == (32, 32):
        np.testing.assert_array_equal(found, pil_to_tensor(picture).numpy())


def test_colours_backgrounds_and_sides_stay_what_they_are():
    found = fill_square(flag(96, 96), 32, 3)
    assert tuple(found[:, 16, 3]) == RED
    assert tuple(found[:, 16, 16]) == GREEN
    assert tuple(found[:, 16, 28]) == BLUE
    white = Image.new("RGB", (64, 64), "white")
    assert (fill_square(white, 32, 3) == 255).all()
    assert (fill_square(white, 32, 1) == 255).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "LA", "1"])
def test_pictures_of_every_mode_give_grey_or_rgb(mode):
    grey = Image.new("L", (50, 40), 255)
    assert (fill_square(grey.convert(mode), 32, 1) == 255).all()
    assert (fill_square(grey.convert(mode), 32, 3) == 255).all()


def test_sixteen_bits_are_scaled_to_eight():
    deep = Image.fromarray(np.full((40, 40), 51400, np.uint16))
    assert (fill_square(deep, 32, 3) == 200).all()
    for value in (255, 256):  # whatever the brightest pixel is
        assert (fill_square(Image.fromarray(np.full((40, 40), value, np.uint16)), 32, 3) == 1).all()


def test_transparent_parts_are_white():
    picture = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    picture.paste((*RED, 255), (0, 0, 32, 64))
    found = fill_square(picture, 32, 3)
    assert tuple(found[:, 5, 5]) == RED
    assert tuple(found[:, 5, 28]) == (255, 255, 255)


def test_a_photograph_is_turned_upright_in_colour(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    flag(96, 96).rotate(90).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as picture:
        np.testing.assert_array_equal(fill_square(picture, 32, 3), fill_square(flag(96, 96), 32, 3))


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"has 1 channel \(grey\) or 3 \(RGB\), and the network takes 4"):
        fill_square(flag(8, 8), 8, 4)


def test_only_fashion_mnists_pictures_are_cut_out():
    class Digits(FashionMNISTSampleDataModule):
        class_names = tuple("0123456789")

    picture = ImageOps.expand(ImageOps.invert(large()), 60, 255)
    image, background = FashionMNISTSampleDataModule().prepare_picture(picture)
    assert background == "white"
    np.testing.assert_array_equal(image, cut_out(picture, 28)[0])
    image, background = Digits().prepare_picture(picture)
    assert background is None
    np.testing.assert_array_equal(image, fill_square(picture, 28, 1))
    assert torch.from_numpy(image).dtype == torch.uint8
