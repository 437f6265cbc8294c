import torch
from torch.utils.data import DataLoader

from convnets.data import FashionMNISTSampleDataModule, derive_seed, images
from convnets.data.augmentation import Draws
from convnets.training.building import build_classifier, build_datamodule, build_trainer


def drawn(config, run_dir):
    """The augmented images and a random number of each training step."""
    seen = []
    run_dir.mkdir(exist_ok=True)
    datamodule = build_datamodule(config)
    classifier = build_classifier(config, datamodule)
    step = classifier.training_step

    def recording_step(batch, batch_idx):
        seen.append((batch[0].clone(), torch.rand(1).item()))
        return step(batch, batch_idx)

    classifier.training_step = recording_step
    build_trainer(config, run_dir).fit(classifier, datamodule=datamodule)
    return seen


def test_each_steps_random_numbers_are_a_function_of_seed_epoch_and_batch(small, tmp_path):
    augmented = "data.augment=shift_flip"
    first = drawn(small(augmented), tmp_path / "a")
    torch.manual_seed(123)  # whatever happened before
    again = drawn(small(augmented), tmp_path / "b")
    other = drawn(small(augmented, "seed=1"), tmp_path / "c")
    assert len(first) == 6
    assert all(torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, again, strict=True))
    assert len({number for _, number in first + other}) == 12


def test_augmentation_differs_between_batches_and_epochs(small, tmp_path, monkeypatch):
    seeds = []
    monkeypatch.setattr(images, "Draws", lambda seed, *share: (seeds.append(seed), Draws(seed, *share))[1])
    drawn(small("data.augment=[shift_flip,erase]"), tmp_path)
    steps = [("augment", 0, 0, epoch, batch) for epoch in range(2) for batch in range(3)]
    expected = [derive_seed(*parts) for step in steps for parts in (step, (*step, "erase"))]
    assert seeds == expected  # twelve in training, none in validation


def test_the_order_of_images_is_the_samplers(small, tmp_path):
    seen = drawn(small("trainer.limit_train_batches=null", "data.batch_size=250"), tmp_path)
    epochs = [torch.cat([images for images, _ in seen[start : start + 4]]) for start in (0, 4)]
    assert not torch.equal(*epochs)
    sums = [sorted(epoch.flatten(1).double().sum(1).tolist()) for epoch in epochs]
    assert sums[0] == sums[1]  # the same 1,000 images, each once
    assert len(sums[0]) == 1000


class PairsDataModule(FashionMNISTSampleDataModule):
    """A user's own loaders: pairs of bytes and labels."""

    def train_dataloader(self):
        images = self.splits["train"]
        pairs = [(images.stored[start : start + 100], images.labels[start : start + 100]) for start in (0, 100, 200)]
        return DataLoader(pairs, batch_size=None)

    val_dataloader = train_dataloader


def test_batches_of_a_users_own_loader_are_trained_on(small, tmp_path):
    def weights(datamodule):
        classifier = build_classifier(config, datamodule)
        trainer = build_trainer(config, tmp_path)
        trainer.fit(classifier, datamodule=datamodule)
        assert trainer.global_step == 6
        return classifier.network[0].weight

    config = small("trainer.limit_train_batches=null", "trainer.limit_val_batches=null")
    first, again = (weights(PairsDataModule()) for _ in range(2))
    assert torch.equal(first, again)
