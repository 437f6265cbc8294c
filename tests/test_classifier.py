import functools
from collections import Counter
from types import SimpleNamespace

import lightning
import pytest
import torch
import torch.nn.functional as F

from convnets.classifier import Classifier, Tally
from convnets.data import Batch, FashionMNISTSampleDataModule
from convnets.networks import VGG, LeNet

BATCH = (
    torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(0)),
    torch.arange(10),
)


def quiet_trainer(**options):
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def test_a_step_of_training_is_a_step_of_plain_sgd():
    torch.manual_seed(0)
    network = LeNet()
    expected = LeNet()
    expected.load_state_dict(network.state_dict())
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    F.cross_entropy(expected(BATCH[0]), BATCH[1]).backward()
    optimizer.step()

    classifier = Classifier(network, functools.partial(torch.optim.SGD, lr=0.1))
    loader = torch.utils.data.DataLoader([BATCH], batch_size=None)
    quiet_trainer(max_epochs=1).fit(classifier, loader)
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_tally_weights_by_images():
    tally = Tally()
    scores = torch.eye(3)
    tally.update(torch.tensor(2.0), scores, torch.tensor([0, 1, 1]))
    tally.update(torch.tensor(6.0), scores[:1], torch.tensor([0]))
    assert tally.compute() == {"loss": 3.0, "accuracy": 0.75}


def test_tally_takes_the_largest_share_of_a_mixed_label_for_right():
    tally = Tally()
    tally.update(torch.tensor(1.0), torch.eye(3), torch.tensor([[0.9, 0.1, 0], [0.6, 0.4, 0], [0, 0.3, 0.7]]))
    assert tally.compute()["accuracy"] == pytest.approx(2 / 3)


def test_validation_equals_the_mean_over_all_images():
    datamodule = FashionMNISTSampleDataModule(batch_size=64)  # 200 images: the last batch is smaller
    torch.manual_seed(0)
    classifier = Classifier(LeNet())
    trainer = quiet_trainer()
    trainer.validate(classifier, datamodule=datamodule, verbose=False)
    split = datamodule.splits["val"]
    with torch.inference_mode():
        scores = classifier.network(split.stored.float() / 255)
    assert classifier.metrics("val")["val/loss"] == pytest.approx(
        F.cross_entropy(scores, split.labels).item(), abs=1e-5
    )
    correct = (scores.argmax(1) == split.labels).double().mean().item()
    assert classifier.metrics("val")["val/accuracy"] == pytest.approx(correct)


def test_channels_last_is_the_default_and_changes_no_score():
    torch.manual_seed(0)
    network = VGG(image_size=32).eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        expected = network(images)
        classifier = Classifier(network)
        assert network[1][0].weight.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(classifier(images), expected)
        assert (
            not Classifier(network, channels_last=False)
            .network[1][0]
            .weight.is_contiguous(memory_format=torch.channels_last)
        )


def test_training_without_an_optimizer_is_refused():
    loader = torch.utils.data.DataLoader([BATCH], batch_size=None)
    with pytest.raises(ValueError, match=r"made without an optimizer: give it one"):
        quiet_trainer(max_epochs=1).fit(Classifier(LeNet()), loader)


def test_ranks_that_share_a_batch_unequally_average_over_its_images(monkeypatch):
    classifier = Classifier(LeNet())
    images, labels = BATCH
    expected = F.cross_entropy(classifier(images), labels)
    monkeypatch.setattr(Classifier, "trainer", SimpleNamespace(world_size=3))
    shares = [Batch(images[rank::3], labels[rank::3], num_images=10, place=(rank, 0, 0)) for rank in range(3)]
    torch.testing.assert_close(sum(classifier.training_step(share, 0) for share in shares) / 3, expected)


def test_a_batch_that_lacks_what_a_training_needs_is_refused(monkeypatch):
    classifier = Classifier(LeNet())
    batch = Batch(*BATCH, num_images=10, place=(0, 0, 1), earlier=[Batch(*BATCH, num_images=10, place=(0, 0, 0))])
    with pytest.raises(RuntimeError, match="only be trained on with the callback TrainingSteps"):
        classifier.training_step(batch, 0)
    monkeypatch.setattr(Classifier, "trainer", SimpleNamespace(world_size=2))
    with pytest.raises(TypeError, match="only train on batches of an ImageDataModule"):
        classifier.training_step(BATCH, 0)


def test_lightning_still_sets_for_each_hook_the_attribute_that_the_classifier_sets_fast(monkeypatch):
    names, set_attribute = Counter(), Classifier.__setattr__

    def counting(self, name, value):
        names[name] += 1
        set_attribute(self, name, value)

    monkeypatch.setattr(Classifier, "__setattr__", counting)
    loader = torch.utils.data.DataLoader([BATCH] * 10, batch_size=None)
    quiet_trainer(max_epochs=1).fit(Classifier(LeNet(), functools.partial(torch.optim.SGD, lr=0.1)), loader)
    assert names["_current_fx_name"] > 10 * 20
