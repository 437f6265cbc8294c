from types import SimpleNamespace

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from convnets.configuration import rules
from convnets.data import Batch, FashionMNISTSampleDataModule
from convnets.data.archive import read_idx
from convnets.data.augmentation import AUGMENTATIONS, MIXES, Draws, random_boxes
from convnets.data.fashion_mnist import SAMPLE_DIR

NUM = 40
GREY = read_idx(SAMPLE_DIR / "t10k-images-idx3-ubyte")[: 3 * NUM]
COLOUR = GREY.view(NUM, 3, 28, 28)  # three images as the channels of one
SHAPES = pytest.mark.parametrize(
    "images",
    [GREY[:NUM, None], COLOUR, COLOUR[:, :, :20], COLOUR[:, :, :1, :1].clone(), COLOUR[:, :2]],
    ids=["grey", "colour", "oblong", "one-pixel", "two-channels"],
)


def draws(seed=0, num_images=NUM):
    return Draws(seed, num_images)


@SHAPES
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_image_gets_numbers_of_its_own_whoever_has_it(name, images):
    """On one rank or three, a function of the seed alone; the images themselves stay."""
    augment, before = AUGMENTATIONS[name], images.clone()
    whole = augment(images, draws())
    assert (whole.dtype, whole.shape) == (torch.uint8, images.shape)
    for rank in range(3):
        share = slice(rank, None, 3)
        assert torch.equal(augment(images[share], Draws(0, NUM, share)), whole[share])
    assert torch.equal(images, before)
    if images.shape[2] > 1:
        assert not torch.equal(augment(images, draws(1)), whole)
        same = augment(images[:1].expand(NUM, -1, -1, -1), draws())
        assert len(same.flatten(1).unique(dim=0)) > NUM / 3


def crops(image, pad):
    """Every image that can be cut out of a padded one, with its mirror image."""
    padded = functional.pad(image, [pad] * 4)
    places = [(top, left) for top in range(2 * pad + 1) for left in range(2 * pad + 1)]
    for number, (top, left) in enumerate(places):
        cut = functional.crop(padded, top, left, *image.shape[1:])
        yield (number, False), cut
        yield (number, True), functional.hflip(cut)


@pytest.mark.parametrize(("name", "pad"), [("shift_flip", 2), ("nudge_flip", 1), ("crop_flip", 4)])
def test_crops_and_mirror_images_are_torchvisions(name, pad):
    chosen = []
    for image, changed in zip(COLOUR, AUGMENTATIONS[name](COLOUR, draws()), strict=True):
        chosen += [which for which, cut in crops(image, pad) if torch.equal(cut, changed)][:1]
    assert len(chosen) == NUM
    assert len({number for number, _ in chosen}) > min(NUM, (2 * pad + 1) ** 2) / 3
    assert 10 < sum(mirrored for _, mirrored in chosen) < 30


@SHAPES
def test_random_resized_crops_are_torchvisions_to_one_grey_level(images):
    height, width = images.shape[2:]
    boxes = random_boxes(draws(), height, width, scale=(0.08, 1), ratio=(3 / 4, 4 / 3))
    ours = AUGMENTATIONS["random_resized_crop"](images, draws())
    for image, changed, box in zip(images, ours, boxes.T.tolist(), strict=True):
        theirs = functional.resized_crop(image, *box, [height, width], antialias=True)
        assert (changed.int() - theirs.int()).abs().max() <= 1


@SHAPES
def test_erased_boxes_are_torchvisions(images):
    numbers = draws()
    boxes = random_boxes(numbers, *images.shape[2:], scale=(0.02, 0.33), ratio=(0.3, 3.3))
    chosen = numbers.integers(2).tolist()
    ours = AUGMENTATIONS["erase"](images, draws())
    for image, changed, is_chosen, box in zip(images, ours, chosen, boxes.T.tolist(), strict=True):
        black = torch.zeros(image.shape[0], *box[2:], dtype=torch.uint8)
        assert torch.equal(changed, functional.erase(image, *box, black) if is_chosen else image)
    assert 10 < sum(chosen) < 30


@pytest.mark.parametrize(
    ("theirs", "options"),
    [
        (v2.RandomResizedCrop(32), {"scale": (0.08, 1), "ratio": (3 / 4, 4 / 3)}),
        (v2.RandomErasing(), {"scale": (0.02, 0.33), "ratio": (0.3, 3.3)}),
    ],
)
def test_boxes_are_spread_as_torchvisions(theirs, options):
    """By the quantiles of each of their numbers."""
    torch.manual_seed(0)
    size, names = 32, [("top", "i"), ("left", "j"), ("height", "h"), ("width", "w")]
    params = [theirs.make_params([torch.zeros(1, size, size)]) for _ in range(3000)]
    expected = torch.tensor([[each.get(long, each.get(short)) for each in params] for long, short in names])
    ours = random_boxes(Draws(0, 3000), size, size, **options)
    shares = torch.arange(0.05, 1, 0.1, dtype=torch.float64)
    mine, others = (boxes.double().quantile(shares, dim=1) for boxes in (ours, expected))
    assert (mine - others).abs().max() <= 1.5


@pytest.mark.parametrize("images", [GREY[:NUM, None], COLOUR], ids=["grey", "colour"])
def test_colours_are_torchvisions_to_one_grey_level(images):
    numbers = draws()
    factors = torch.cat([numbers.uniform(0.6, 1.4) for _ in range(3)], dim=1).tolist()
    ours = AUGMENTATIONS["color"](images, draws())
    for image, changed, (brightness, contrast, saturation) in zip(images, ours, factors, strict=True):
        theirs = functional.adjust_contrast(functional.adjust_brightness(image, brightness), contrast)
        theirs = functional.adjust_saturation(theirs, saturation)
        assert (changed.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize(("name", "kind"), [("mixup", v2.MixUp), ("cutmix", v2.CutMix)])
def test_mixes_are_torchvisions(name, kind):
    images, labels = COLOUR[:, :, :24].float() / 255, torch.arange(NUM) % 7
    theirs = kind(num_classes=7)
    theirs._dist = SimpleNamespace(sample=lambda _: torch.rand(()))  # Beta(1, 1)
    for seed in range(20):
        torch.manual_seed(seed)
        expected = theirs(images, labels)
        ours = MIXES[name](images, torch.eye(7)[labels], torch.Generator().manual_seed(seed))
        for mine, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(mine, other)
        torch.testing.assert_close(ours[1].sum(dim=1), torch.ones(NUM))


def batch_of(datamodule, number, numbers, rank=0, epoch=0):
    images, labels = datamodule.splits["train"][numbers]
    num_ranks = datamodule.trainer.world_size if datamodule.trainer else 1
    share = slice(rank, None, num_ranks)
    return datamodule.training_batch(
        Batch(images[share], labels[share], len(numbers), (rank, epoch, number), [], numbers[share])
    )


def test_a_batch_of_several_ranks_is_that_of_one():
    """But for mixing, whose partners are of one share: its weights are the same for all."""
    options = {"augment": ["crop_flip", "erase", "color"], "seed": 3}
    datamodule = FashionMNISTSampleDataModule(**options)
    datamodule.setup()
    numbers = torch.arange(50)
    whole = batch_of(datamodule, 4, numbers)
    for other in (batch_of(datamodule, 5, numbers), batch_of(datamodule, 4, numbers, epoch=1)):
        assert not torch.equal(other.images, whole.images)
    mixed = FashionMNISTSampleDataModule(**options, mix="mixup")
    mixed.setup()
    for each in (datamodule, mixed):
        each.trainer = SimpleNamespace(world_size=3)
    weights = []
    for rank in range(3):
        share = batch_of(datamodule, 4, numbers, rank)
        assert torch.equal(share.images, whole.images[rank::3])
        assert torch.equal(share.labels, whole.labels[rank::3])
        labels = batch_of(mixed, 4, numbers, rank).labels
        weights.append(labels[labels > 0].min())
    assert weights[0] < 0.5
    assert weights == [weights[0]] * 3


def test_names_and_defaults_are_known_to_the_rules():
    assert tuple(AUGMENTATIONS) == rules.AUGMENTATIONS
    assert rules.RULES["data.mix"].wording == f"one of none, {', '.join(MIXES)}"
    for given, names in (("none", []), ([], []), ("erase", ["erase"]), (["erase", "color"], ["erase", "color"])):
        assert list(FashionMNISTSampleDataModule(augment=given).augmentations) == names
        assert rules.RULES["data.augment"].allows(given)
    for wrong in (["erase", "erase"], ["none"], ["flip"], "flip", 5, None):
        assert not rules.RULES["data.augment"].allows(wrong)
    with pytest.raises(ValueError, match=r"data\.mix must be none, mixup or cutmix, got 'mixmax'\."):
        FashionMNISTSampleDataModule(mix="mixmax")


def test_alternating_mirroring_turns_every_image_in_every_second_epoch_on_any_number_of_ranks():
    numbers = torch.arange(NUM)
    seen = []
    for epoch in range(4):
        whole = Draws(epoch, NUM, slice(None), 7, epoch, numbers)
        shared = [Draws(epoch, NUM, slice(rank, None, 2), 7, epoch, numbers[rank::2]) for rank in range(2)]
        changed = AUGMENTATIONS["shift_alternate"](COLOUR, whole)
        for rank in range(2):
            assert torch.equal(AUGMENTATIONS["shift_alternate"](COLOUR[rank::2], shared[rank]), changed[rank::2])
        which = []
        for image, after in zip(COLOUR, changed, strict=True):
            which.append({mirrored for (_, mirrored), cut in crops(image, 2) if torch.equal(cut, after)}.pop())
        seen.append(which)
    assert seen[0] == seen[2] != seen[1] == seen[3]
    assert seen[0] == [not mirrored for mirrored in seen[1]]
    assert NUM / 4 < sum(seen[0]) < 3 * NUM / 4
    other = Draws(0, NUM, slice(None), 8, 0, numbers).turns()
    assert not torch.equal(other, Draws(0, NUM, slice(None), 7, 0, numbers).turns())
