import math
import statistics

import pytest

from convnets.results.significance import (
    Estimate,
    difference,
    holm,
    mcnemar,
    paired_p_value,
    t_p_value,
    t_quantile,
    welch_p_value,
)

# Any statistics textbook's table: degrees of freedom, 95 %, 99 %, both-sided.
TABLE = [(1, 12.706, 63.657), (2, 4.303, 9.925), (3, 3.182, 5.841), (4, 2.776, 4.604), (5, 2.571, 4.032)]
TABLE += [(9, 2.262, 3.250), (10, 2.228, 3.169), (30, 2.042, 2.750), (120, 1.980, 2.617), (10**6, 1.960, 2.576)]


@pytest.mark.parametrize(("degrees", "at_95", "at_99"), TABLE)
def test_quantiles_are_those_of_the_printed_table(degrees, at_95, at_99):
    assert t_quantile(degrees) == pytest.approx(at_95, abs=5.1e-4)
    assert t_quantile(degrees, 0.99) == pytest.approx(at_99, abs=5.1e-4)


@pytest.mark.parametrize("t", [1e-3, 0.01, 0.5, 1, 3, 20, 1e4])
def test_the_tail_has_its_closed_form_at_one_and_two_degrees(t):
    assert t_p_value(t, 1) == pytest.approx(2 / math.pi * math.atan2(1, t), rel=1e-12)
    assert t_p_value(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-8, abs=1e-15)
    assert t_p_value(-t, 2) == t_p_value(t, 2)


@pytest.mark.parametrize(("t", "degrees"), [(0.3, 2.7), (2.1, 3.4), (1.5, 17.9), (4, 400.5)])
def test_the_tail_is_the_integral_of_the_density(t, degrees):
    """Simpson's rule over the middle, for the fractional degrees that Welch's test asks for."""
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    step = t / 1000
    density = [constant * (1 + (i * step) ** 2 / degrees) ** (-(degrees + 1) / 2) for i in range(1001)]
    middle = step / 3 * (density[0] + 4 * sum(density[1::2]) + 2 * sum(density[2:-1:2]) + density[-1])
    assert t_p_value(t, degrees) == pytest.approx(1 - 2 * middle, abs=1e-9)


def test_an_interval_is_that_of_the_textbook():
    estimate = Estimate.of([0.731, 0.733, 0.735, 0.737, 0.741])
    assert estimate.mean == pytest.approx(0.7354)
    assert estimate.sd == pytest.approx(0.003847, abs=1e-6)
    assert estimate.half_width == pytest.approx(2.776 * 0.003847 / math.sqrt(5), rel=1e-3)
    assert Estimate.of([0.5]) == Estimate(1, 0.5, None, None)


def test_students_own_example():
    """Sleep gained with two drugs by ten patients (Student 1908): paired t 4.0621; Welch t 1.8608 at 17.776 degrees."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = difference(dict(enumerate(second)), dict(enumerate(first)))
    assert (found.mean, found.num_pairs) == (pytest.approx(1.58), 10)
    assert found.p_value == pytest.approx(0.002833, abs=1e-6)
    unpaired = difference(dict(enumerate(second)), {f"other {i}": value for i, value in enumerate(first)})
    assert (unpaired.mean, unpaired.num_pairs) == (pytest.approx(1.58), 0)
    assert unpaired.p_value == pytest.approx(0.07939, abs=1e-5)


def test_pairs_are_only_those_of_shared_keys():
    a, b = {0: 0.5, 1: 0.6, 7: 0.9}, {1: 0.5, 0: 0.45, 8: 0.1}
    found = difference(a, b)
    assert found.num_pairs == 2
    assert found.mean == pytest.approx(0.075)
    assert found.p_value == t_p_value(statistics.fmean([0.05, 0.1]) / (0.025 * math.sqrt(2)) * math.sqrt(2), 1)


def test_without_a_spread_there_is_no_verdict():
    assert welch_p_value([0.5], [0.1, 0.2, 0.3]) is None
    assert welch_p_value([0.5, 0.5], [0.1, 0.1]) is None
    assert paired_p_value([0.1, 0.1, 0.1]) is None
    assert paired_p_value([0.0, 0.0]) == welch_p_value([1, 1], [1, 1]) == 1


def test_holm_multiplies_the_smallest_most_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [(10, 2, 158 / 4096), (2, 10, 158 / 4096), (5, 5, 1.0), (0, 0, 1.0), (0, 1, 1.0), (0, 20, 2**-19)],
)
def test_mcnemar(only_a, only_b, p_value):
    assert mcnemar(only_a, only_b) == pytest.approx(p_value)


def test_mcnemar_of_many_is_the_normal_approximation():
    z = (2600 - 2400 - 1) / math.sqrt(5000)  # with Edwards' correction
    assert mcnemar(2400, 2600) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=2e-3)
    assert math.isfinite(mcnemar(0, 10_000))
