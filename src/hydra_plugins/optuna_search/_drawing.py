"""How a trial is drawn: its numbers are a function of the sampler's seed, the trial's number and what has ended."""

import hashlib
import json
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


def sampler_of(config: DictConfig, number: int) -> BaseSampler:
    """The sampler of one trial, seeded for it, so that a search that goes on draws what it would have drawn.

    Args:
        config: `_target_` of a sampler with its arguments; without a seed, draws differ from search to search.
    """
    arguments: Any = OmegaConf.to_container(config, resolve=True)
    sampler = get_class(arguments.pop("_target_"))
    if (seed := arguments.get("seed")) is not None:
        digest = hashlib.blake2b(json.dumps([seed, number]).encode(), digest_size=4).digest()
        arguments["seed"] = int.from_bytes(digest)
    return ThreeDigits(sampler(**arguments))


class ThreeDigits(BaseSampler):
    """Rounds what another sampler draws to three digits: the numbers stand in commands and in folders' names."""

    def __init__(self, sampler: BaseSampler) -> None:
        self.sampler = sampler

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The other's."""
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The other's draw, rounded."""
        drawn = self.sampler.sample_relative(study, trial, search_space)
        return {name: _rounded(value, search_space[name]) for name, value in drawn.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The other's draw, rounded."""
        drawn = self.sampler.sample_independent(study, trial, param_name, param_distribution)
        return _rounded(drawn, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the other."""
        self.sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Tell the other."""
        self.sampler.after_trial(study, trial, state, values)


def _rounded(value: Any, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return min(max(float(f"{value:.3g}"), distribution.low), distribution.high)
    return value
