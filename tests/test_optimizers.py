import copy

import pytest
import torch
from torch import nn

from convnets.optimizers import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (12, 12)])
def test_a_step_has_the_singular_vectors_of_its_momentum_and_like_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalized(matrix, 8)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ found @ right.T  # diagonal in the singular vectors of the matrix
    assert (turned - turned.diagonal().diag()).abs().max() < 0.1


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 2)
    return nn.Sequential(*layers)


def backward(model):
    model.zero_grad()
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    nn.functional.cross_entropy(model(images), torch.arange(8) % 2).backward()


def test_all_but_filters_take_the_steps_of_sgd_and_filters_those_by_hand():
    ours, expected = network(), network()
    muon = Muon([*ours.named_parameters()], lr=0.1, momentum=0.5, others_lr=0.3, weight_decay=0.01)
    assert muon.param_groups[0]["param_names"] == ["2.weight"]
    others = [parameter for name, parameter in expected.named_parameters() if name != "2.weight"]
    sgd = torch.optim.SGD(others, lr=0.3, momentum=0.85, nesterov=True, weight_decay=0.01)
    filters, buffer = expected[2].weight, 0
    for _ in range(3):
        backward(ours)
        backward(expected)
        muon.step()
        sgd.step()
        with torch.no_grad():
            buffer = 0.5 * buffer + filters.grad
            ahead = filters.grad + 0.5 * buffer
            filters *= 6**0.5 / filters.norm()
            filters -= 0.1 * orthogonalized(ahead.reshape(6, 36), 3).reshape(filters.shape)
        for name, parameter in ours.named_parameters():
            torch.testing.assert_close(parameter, expected.get_parameter(name), msg=name)


def test_groups_keep_their_options_and_a_copy_goes_on_from_the_state():
    model = network()
    biases = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    groups = [{"params": weights}, {"params": biases, "weight_decay": 0.0, "lr": 0.7}]
    muon = Muon(copy.copy(groups), lr=0.1, weight_decay=0.01)
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in muon.param_groups] == [
        (0.1, 0.01, 1), (1.0, 0.01, 2), (0.7, 0.0, 5)
    ]  # fmt: skip
    slower = Muon([{"params": [model[5].weight]}, {"params": [model[2].weight, model[0].weight], "lr": 0.01}], lr=0.1)
    assert [group["lr"] for group in slower.param_groups] == [0.01, 1.0, 0.01]  # filters first, a group's rate for all
    backward(model)
    muon.step()
    twin = copy.deepcopy(model)
    other = Muon([*twin.named_parameters()], lr=0.5)
    assert len(other.param_groups) == 2
    again = Muon([{"params": [p for p in twin.parameters() if p.ndim > 1]},
                  {"params": [p for p in twin.parameters() if p.ndim < 2], "lr": 0.7}])  # fmt: skip
    again.load_state_dict(copy.deepcopy(muon.state_dict()))
    for one, optimizer in ((model, muon), (twin, again)):
        backward(one)
        optimizer.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_network_without_filters_is_refused():
    with pytest.raises(ValueError, match="no convolution of more than 3 input channels"):
        Muon(nn.Linear(3, 2).parameters())
