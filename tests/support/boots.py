"""A person's pictures of what is in the packaged sample."""

from PIL import Image

from convnets.data import FashionMNISTSampleDataModule

IMAGES, LABELS = FashionMNISTSampleDataModule().read_split("test")
BOOT = IMAGES[0, 0].numpy()


def saved(tmp_path, image, name="picture.png"):
    image.save(tmp_path / name)
    return tmp_path / name


def large(image=BOOT):
    return Image.fromarray(image).resize((280, 280), Image.Resampling.NEAREST)
