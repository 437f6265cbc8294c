"""Statistics of a few runs: confidence intervals, and tests of whether two results differ.

The incomplete beta function is that of mpmath, which comes with torch. With scipy installed, torchmetrics would load
a good part of it, and every training start 1.3 s later.
"""

import functools
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import mpmath


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard deviation and half the width of its 95 % interval; of one value, these two are None."""

    n: int
    mean: float
    sd: float | None
    half_width: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Estimate the mean of at least one value."""
        n, mean = len(values), statistics.fmean(values)
        if n == 1:
            return cls(n, mean, None, None)
        sd = statistics.stdev(values)
        return cls(n, mean, sd, t_quantile(n - 1) * sd / math.sqrt(n))


@dataclass(frozen=True)
class Difference:
    """The mean of one sample minus that of another.

    Args:
        num_pairs: values of each that were compared one by one; 0 where Welch's test compared the samples.
        p_value: two-sided; None where there is no spread to compare with.
    """

    mean: float
    num_pairs: int
    p_value: float | None


def difference(a: Mapping[Hashable, float], b: Mapping[Hashable, float]) -> Difference:
    """Compare two samples: paired over the keys that they share, if they share two, by Welch's test otherwise.

    The keys say what two values have in common, such as the seed.
    """
    shared = [key for key in a if key in b]
    if len(shared) >= 2:
        pairs = [a[key] - b[key] for key in shared]
        return Difference(statistics.fmean(pairs), len(pairs), paired_p_value(pairs))
    means = [statistics.fmean(sample.values()) for sample in (a, b)]
    return Difference(means[0] - means[1], 0, welch_p_value([*a.values()], [*b.values()]))


def paired_p_value(differences: Sequence[float]) -> float | None:
    """The probability of a mean as far from 0 if the differences came from a normal distribution around 0."""
    mean, sd = statistics.fmean(differences), statistics.stdev(differences)
    if sd <= 1e-12 * abs(mean):  # equal differences
        return 1.0 if mean == 0 else None
    return t_p_value(mean / sd * math.sqrt(len(differences)), len(differences) - 1)


def welch_p_value(a: Sequence[float], b: Sequence[float]) -> float | None:
    """The probability of means as far apart if both samples came from normal distributions around one value."""
    if min(len(a), len(b)) < 2:
        return None
    errors = [statistics.variance(sample) / len(sample) for sample in (a, b)]
    distance = statistics.fmean(a) - statistics.fmean(b)
    if math.sqrt(sum(errors)) <= 1e-12 * abs(distance):
        return 1.0 if distance == 0 else None
    degrees = sum(errors) ** 2 / sum(e**2 / (len(s) - 1) for e, s in zip(errors, (a, b), strict=True))
    return t_p_value(distance / math.sqrt(sum(errors)), degrees)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of several comparisons, in their order (Holm 1979)."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def t_p_value(t: float, degrees: float) -> float:
    """The two-sided tail of Student's t: the probability of a value at least as far from 0."""
    return float(mpmath.betainc(degrees / 2, 0.5, 0, degrees / (degrees + t * t), regularized=True))


@functools.cache
def t_quantile(degrees: float, confidence: float = 0.95) -> float:
    """The distance from 0 that Student's t does not exceed with this probability."""
    normal = statistics.NormalDist().inv_cdf((1 + confidence) / 2)  # smaller, from where the secants cannot overshoot
    return float(mpmath.findroot(lambda t: t_p_value(t, degrees) - (1 - confidence), (normal, 1.01 * normal)))


def mcnemar(only_a: int, only_b: int) -> float:
    """McNemar's exact, two-sided test of the images that only one of two classifiers gets right.

    The probability of a split at least as uneven if each of these images were as likely to fall to either side.
    """
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)
