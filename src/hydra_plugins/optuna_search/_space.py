"""What is searched: values of keys, as Hydra's override grammar writes them, and as Optuna draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


class SpaceError(ValueError):
    """A key cannot be searched as it is written; the text says why."""


@dataclass(frozen=True)
class Space:
    """A search space.

    Args:
        distributions: of the keys that are searched.
        fixed: overrides that all trials share, by their keys.
        written: how each searched key was given.
    """

    distributions: Mapping[str, BaseDistribution]
    fixed: Mapping[str, str]
    written: Mapping[str, str]

    @classmethod
    def parse(cls, words: Sequence[str], config_loader: ConfigLoader | None = None) -> "Space":
        """Read `key=value`, `choice(a, b)`, `a,b`, `interval(0, 1)` and `range(1, 9)`, of which a later one counts.

        `tag(log, ...)` draws evenly in the logarithm, `int(interval(1, 9))` whole numbers. A range's stop is drawn too.

        Raises:
            SpaceError: an interval or range is empty.
        """
        parsed = OverridesParser.create(config_loader=config_loader).parse_overrides(list(words))
        last = {override.get_key_element(): override for override in parsed}
        searched = {key: override for key, override in last.items() if override.is_sweep_override()}
        return cls(
            {key: _distribution(key, override) for key, override in searched.items()},
            {key: str(override.input_line) for key, override in last.items() if key not in searched},
            {key: override.get_value_string() for key, override in searched.items()},
        )

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial with these parameters."""
        return [*self.fixed.values(), *(f"{key}={_as_text(value)}" for key, value in params.items())]


def _distribution(key: str, override: Override) -> BaseDistribution:
    sweep: Any = override.value()
    if override.is_choice_sweep():
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    logarithmic = "log" in sweep.tags
    try:
        if isinstance(sweep, IntervalSweep):
            assert sweep.start is not None
            assert sweep.end is not None
            if isinstance(sweep.start, int) and isinstance(sweep.end, int):
                return IntDistribution(sweep.start, sweep.end, log=logarithmic)
            return FloatDistribution(float(sweep.start), float(sweep.end), log=logarithmic)
        assert isinstance(sweep, RangeSweep)
        assert sweep.start is not None
        assert sweep.stop is not None
        if any(isinstance(number, float) for number in (sweep.start, sweep.stop, sweep.step)):
            return FloatDistribution(float(sweep.start), float(sweep.stop), step=float(sweep.step))
        return IntDistribution(int(sweep.start), int(sweep.stop), log=logarithmic, step=int(sweep.step))
    except ValueError as error:
        raise SpaceError(f"{key}={override.get_value_string()} cannot be searched: {error}") from error


def _as_text(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)
