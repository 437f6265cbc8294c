import math

import pytest
import torch

from convnets.schedules import WarmupDecay


def rates(num_steps, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupDecay(optimizer, num_steps, **options)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found, optimizer.param_groups[0]["lr"]


def test_a_trapezoid_by_hand():
    found, after = rates(10, warmup=0.3, hold=0.2, decay="linear")
    assert found == pytest.approx([0.5, 1.0, 1.5, 2, 2, 10 / 6, 8 / 6, 1, 4 / 6, 2 / 6])
    assert after == 0.0


def test_a_cosine_by_hand_to_a_share_of_the_rate():
    found, after = rates(9, warmup=0.0, decay="cosine", final=0.1)
    expected = [2 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 10)) / 2) for step in range(1, 10)]
    assert found == pytest.approx(expected)
    assert after == pytest.approx(0.2)


def test_a_training_of_one_step_has_a_rate():
    assert rates(1)[0][0] > 0


@pytest.mark.parametrize(
    ("options", "said"),
    [({"warmup": 0.7, "hold": 0.4}, r"together at most 1, got 0.7 \+ 0.4"), ({"decay": "step"}, "linear or cosine")],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        rates(10, **options)
