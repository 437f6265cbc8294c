"""Losses that torch does not have: from scores (N, num_classes) and labels to the mean loss, a scalar."""

import torch.nn.functional as F
from torch import Tensor, nn


class FocalLoss(nn.Module):
    """Cross-entropy in which class c of an image counts (1 - p_c)^gamma times, p_c being its predicted probability.

    Takes labels (N,), or shares of the classes (N, num_classes), as mixed images have; returns nats.

    Source: Lin et al., arXiv 1708.02002.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of the images, a scalar."""
        shares = labels if labels.is_floating_point() else F.one_hot(labels, scores.shape[1])
        logs = F.log_softmax(scores, dim=1)
        doubts = (1 - logs.exp()).clamp_min(1e-12)  # of 0 a power below 1 has an infinite slope
        return -(shares * doubts**self.gamma * logs).sum(dim=1).mean()
