import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convnets.losses import FocalLoss

SCORES = torch.randn(16, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(16) % 5


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_weights_the_cross_entropy_of_each_image(gamma):
    scores = SCORES.clone().requires_grad_()
    losses = F.cross_entropy(scores, LABELS, reduction="none")
    expected = ((1 - (-losses).exp()) ** gamma * losses).mean()  # p is exp(-cross-entropy)
    torch.testing.assert_close(FocalLoss(gamma)(scores, LABELS), expected)
    (slope,) = torch.autograd.grad(expected, scores)
    (ours,) = torch.autograd.grad(FocalLoss(gamma)(scores, LABELS), scores)
    torch.testing.assert_close(ours, slope)


@pytest.mark.parametrize("loss", [FocalLoss(), nn.CrossEntropyLoss()])
def test_a_label_written_as_shares_of_classes_is_the_same_and_mixing_is_linear(loss):
    shares = F.one_hot(LABELS, 5).to(SCORES)
    torch.testing.assert_close(loss(SCORES, shares), loss(SCORES, LABELS))
    mixed = loss(SCORES, 0.3 * shares + 0.7 * shares.roll(1, dims=1))
    torch.testing.assert_close(mixed, 0.3 * loss(SCORES, LABELS) + 0.7 * loss(SCORES, (LABELS + 1) % 5))


def test_focal_loss_without_focus_is_cross_entropy_with_shares_too():
    shares = SCORES.softmax(dim=1)
    torch.testing.assert_close(FocalLoss(0)(SCORES, shares), F.cross_entropy(SCORES, shares))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_of_a_certain_image_the_slope_is_a_number(gamma):
    scores = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    for label in (0, 1):
        (slope,) = torch.autograd.grad(FocalLoss(gamma)(scores, torch.tensor([label])), scores)
        assert slope.isfinite().all()
