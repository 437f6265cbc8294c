import copy
import functools
from collections import Counter
from types import SimpleNamespace

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


def hand_written_step(network, spared_decay, bias_lr):
    """SGD with weight decay, in which biases, scales and shifts have a rate of their own, and perhaps no decay."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            is_weight = name in ("0.weight", "4.weight")
            rate = 0.1 if is_weight else bias_lr
            decay = 0.5 if is_weight or not spared_decay else 0.0
            parameter -= rate * (parameter.grad + decay * parameter)


@pytest.mark.parametrize(("decays_biases", "bias_lr"), [(False, None), (True, 0.3), (False, 0.3)])
def test_biases_and_norms_are_spared_decay_or_have_a_rate_of_their_own(decays_biases, bias_lr):
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2))
    ours = nn.Sequential(*layers).double()
    expected = copy.deepcopy(ours)
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    sgd = functools.partial(torch.optim.SGD, lr=0.1, weight_decay=0.5)
    optimizer = Classifier(ours, sgd, decays_biases=decays_biases, bias_lr=bias_lr).build_optimizer()
    assert optimizer.param_groups[0]["lr"] == 0.1  # which is the one that is reported
    for _ in range(3):
        for network in (ours, expected):
            network.zero_grad()
            network(images).square().mean().backward()
        optimizer.step()
        hand_written_step(expected, not decays_biases, bias_lr or 0.1)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, expected.get_parameter(name), msg=name)


def test_scores_are_averaged_over_mirrored_and_shifted_images():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    images = torch.rand(2, 1, 4, 4)
    mirrored = images.numpy()[:, :, :, ::-1].copy()
    expected = (network(images) + network(torch.from_numpy(mirrored))) / 2
    found = Classifier(network, test_time_augmentation="mirror").averaged_scores(images)
    torch.testing.assert_close(found, expected)
    assert torch.equal(Classifier(network).averaged_scores(images), network(images))
    shifted = [images]
    for clipped in (lambda i: min(i + 1, 3), lambda i: max(i - 1, 0)):
        rows = [clipped(i) for i in range(4)]
        shifted.append(images[:, :, rows][:, :, :, rows])
    expected = sum(network(each) + network(each.flip(3)) for each in shifted) / 6
    found = Classifier(network, test_time_augmentation="mirror_shift").averaged_scores(images)
    torch.testing.assert_close(found, expected)
