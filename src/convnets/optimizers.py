"""Optimizers that torch does not have."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.sgd import sgd

MOST_PIXEL_CHANNELS = 3  # a convolution of so many input channels sees pixels
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Keller Jordan's coefficients: fast, to singular values from 0.7 to 1.2


class Muon(Optimizer):
    """Muon for the filters of convolutions; for all other parameters SGD with Nesterov momentum.

    A step moves a filter bank, as a matrix (out_channels, the rest), by its momentum made nearly orthogonal, so that
    every direction counts alike. Before, the filters are scaled to a mean length of 1, so they need no weight decay.
    Filters of at most 3 input channels, which see pixels, are moved as all other parameters are.

    torch.optim.Muon takes matrices alone.

    Args:
        params: parameters, pairs of name and parameter, or groups of them. A group's own `lr` is that of all of its
            parameters.
        lr: of the filters.
        momentum: of the filters.
        others_lr: of the other parameters.
        others_momentum: of the other parameters.
        weight_decay: of the other parameters.
        num_iterations: of Newton and Schulz.

    Raises:
        ValueError: there is no filter.

    Source: Jordan and others, https://kellerjordan.github.io/posts/muon (2024); airbench94_muon for the scaling.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.05,
        momentum: float = 0.6,
        others_lr: float = 1.0,
        others_momentum: float = 0.85,
        weight_decay: float = 0.0,
        num_iterations: int = 3,
    ) -> None:
        self.num_iterations = num_iterations
        given = list(params)
        given = given if given and isinstance(given[0], dict) else [{"params": given}]
        of_filters: list[dict[str, Any]] = []
        of_others: list[dict[str, Any]] = []
        for group in given:
            members = list(group["params"])
            filters = [each for each in members if _is_filter(each)]
            rest = [each for each in members if not _is_filter(each)]
            if filters:
                own = {"lr": lr, "momentum": momentum, **group}
                of_filters.append({**own, "params": filters, "is_filters": True})
            if rest:
                of_others.append({"lr": others_lr, "momentum": others_momentum, **group, "params": rest})
        if not of_filters:
            raise ValueError("There is no convolution of more than 3 input channels: Muon is for others' filters.")
        super().__init__([*of_filters, *of_others], {"lr": lr, "weight_decay": weight_decay, "is_filters": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in learning]
            if group["is_filters"]:
                for parameter, gradient in zip(learning, gradients, strict=True):
                    self._move(parameter, gradient, group)
            elif learning:
                buffers = [self.state[parameter].get("momentum_buffer") for parameter in learning]
                sgd(
                    learning, gradients, buffers, weight_decay=group["weight_decay"], momentum=group["momentum"],
                    lr=group["lr"], dampening=0.0, nesterov=True, maximize=False,
                )  # fmt: skip
                for parameter, buffer in zip(learning, buffers, strict=True):
                    self.state[parameter]["momentum_buffer"] = buffer
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        ahead = gradient.add(buffer, alpha=group["momentum"])
        parameter.mul_(len(parameter) ** 0.5 / parameter.norm())
        step = orthogonalized(ahead.flatten(1), self.num_iterations).view_as(parameter)
        parameter.add_(step, alpha=-group["lr"])


def _is_filter(member: Any) -> bool:
    """Whether a parameter, or a pair of its name and it, is what Muon is for."""
    parameter = member[1] if isinstance(member, tuple) else member
    return parameter.ndim > 2 and parameter.shape[1] > MOST_PIXEL_CHANNELS


def orthogonalized(matrix: Tensor, num_iterations: int) -> Tensor:
    """A matrix with the singular vectors of this one, and singular values near 1; computed in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    x = matrix.bfloat16()
    x = x / (x.norm() + 1e-7)
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    for _ in range(num_iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if is_tall else x).to(matrix.dtype)
