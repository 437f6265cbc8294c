import pytest
import torch

from convnets.data import FashionMNISTDataModule, FashionMNISTSampleDataModule


def sample(**options):
    datamodule = FashionMNISTSampleDataModule(**options)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def test_sample_is_balanced_and_real():
    datamodule = sample()
    for split, per_class in (("train", 100), ("test", 20)):
        images, labels = datamodule.splits[split].stored, datamodule.splits[split].labels
        assert labels.bincount().tolist() == [per_class] * 10
        assert images.shape == (10 * per_class, 1, 28, 28)
        assert images.dtype == torch.uint8
        assert 60 < images.float().mean() < 85  # of all 60,000: 72.9
        assert len(images.flatten(1).unique(dim=0)) == len(images)


def test_ten_classes_by_their_names():
    assert FashionMNISTDataModule.class_names[0] == "T-shirt/top"
    assert FashionMNISTDataModule.class_names[9] == "Ankle boot"
    assert sample().num_classes == 10


def test_without_a_holdout_all_images_train_and_the_test_split_validates():
    datamodule = sample()
    assert len(datamodule.splits["train"]) == 1000
    assert datamodule.splits["val"] is datamodule.splits["test"]
    assert datamodule.validates_on_test_split


def test_a_holdout_is_taken_from_the_training_images():
    datamodule = sample(holdout=200)
    rows = {
        split: {tuple(image.flatten().tolist()) for image in dataset[torch.arange(len(dataset))][0]}
        for split, dataset in datamodule.splits.items()
    }
    assert (len(rows["train"]), len(rows["val"]), len(rows["test"])) == (800, 200, 200)
    assert not rows["train"] & rows["val"]
    assert not rows["val"] & rows["test"]
    assert datamodule.splits["val"].labels.bincount().tolist() == [20] * 10
    assert not datamodule.validates_on_test_split


def test_a_holdout_of_everything_is_refused():
    with pytest.raises(
        ValueError, match=r"data.holdout=1000 leaves nothing of 1000 training images: choose at most 999"
    ):
        sample(holdout=1000)


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(
        ValueError, match=r"data\.augment must be none, shift_flip, .*, crop_flip, .* or color, got 'flip'"
    ):
        FashionMNISTSampleDataModule(augment="flip")


@pytest.mark.parametrize("resize", [20, 28, 96])
def test_batches_travel_as_bytes_and_are_resized_where_they_arrive(resize):
    datamodule = sample(resize=resize, batch_size=64)
    images, labels = next(iter(datamodule.train_dataloader()))
    assert (images.dtype, images.shape) == (torch.uint8, (64, 1, 28, 28))
    images, labels = datamodule.on_after_batch_transfer((images, labels), 0)
    assert (images.dtype, images.shape) == (torch.float32, (64, 1, resize, resize))
    assert (labels.dtype, labels.shape) == (torch.int64, (64,))


def test_evaluation_keeps_the_order_and_counts_each_image_once():
    datamodule = sample(batch_size=64)
    labels = torch.cat([labels for _, labels in datamodule.test_dataloader()])
    assert torch.equal(labels, datamodule.splits["test"].labels)
