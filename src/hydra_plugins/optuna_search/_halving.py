"""Successive halving: which trials go on beyond an epoch, decided by what they had reached there. Knows no Optuna.

A trial goes on as soon as it is certain to be among the best of its rung, whatever the others will reach. So which
trials go on does not depend on which of them was faster, and what the search costs is known before it begins.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """How far a trial has come.

    Args:
        values: at the rungs that it has reached, of which a high one is good.
        failed: after the last of these rungs.
        ended: whether it needs no further run.
    """

    number: int
    values: Sequence[float] = ()
    failed: bool = False
    ended: bool = False


@dataclass(frozen=True)
class Plan:
    """How many trials run for how long.

    Args:
        rungs: epochs after which trials are compared; the last is a whole trial's. One rung: nothing is paused.
        reduction: of so many trials at a rung one goes on.
    """

    num_trials: int
    rungs: Sequence[int] = (1,)
    reduction: int = 3

    @classmethod
    def of(cls, num_trials: int, num_epochs: int, first_epoch: int, reduction: int) -> "Plan":
        """Place rungs at a whole trial's epochs divided by the reduction, again and again, down to the first epoch.

        Raises:
            ValueError: the first epoch or the reduction makes no sense.
        """
        if not 1 <= first_epoch <= num_epochs:
            raise ValueError(f"halving.first_epoch must be between 1 and {num_epochs}, got {first_epoch}.")
        if reduction < 2:
            raise ValueError(f"halving.reduction must be at least 2, got {reduction}.")
        rungs, divisor = [num_epochs], reduction
        while num_epochs // divisor >= first_epoch:
            rungs.insert(0, num_epochs // divisor)
            divisor *= reduction
        return cls(num_trials, rungs, reduction)

    def num_beyond(self, rung: int) -> int:
        """How many trials go on beyond a rung; -1 is the start."""
        return max(self.num_trials // self.reduction ** (rung + 1), 1)

    @property
    def num_epochs(self) -> int:
        """Epochs of all trials together, if none fails."""
        steps = zip(self.rungs, [0, *self.rungs], strict=False)
        return sum(self.num_beyond(rung - 1) * (end - start) for rung, (end, start) in enumerate(steps))

    def next_trial(self, standings: Sequence[Standing], running: Collection[int]) -> int | None:
        """The number of the trial that is to run now up to its next rung, the furthest first; None: a new one, if any.

        Args:
            standings: of all trials that were drawn.
            running: the numbers of those that run.
        """
        for level in reversed(range(len(self.rungs))):
            may_go_on = standings if level == 0 else self._certain(standings, level - 1)
            for one in may_go_on:
                if len(one.values) == level and not (one.failed or one.ended) and one.number not in running:
                    return one.number
        return None

    def _certain(self, standings: Sequence[Standing], rung: int) -> Sequence[Standing]:
        """The trials that go on beyond the rung whatever the outstanding ones reach, best first."""
        free = self.num_beyond(rung) - self._num_outstanding(standings, rung)
        return self._ranked(standings, rung)[: max(free, 0)]

    def _ranked(self, standings: Sequence[Standing], rung: int) -> list[Standing]:
        """Those that reached the rung; one that failed in its next stretch has left its place to another."""
        reached = [one for one in standings if len(one.values) > rung and not (one.failed and _last(one) == rung)]
        return sorted(reached, key=lambda one: (-one.values[rung], one.number))

    def _num_outstanding(self, standings: Sequence[Standing], rung: int) -> int:
        """How many may yet come to the rung."""
        num_reached = sum(len(one.values) > rung for one in standings)
        if rung == 0:
            return self.num_trials - num_reached - sum(one.failed and not one.values for one in standings)
        num_coming = self.num_beyond(rung - 1)
        if self._num_outstanding(standings, rung - 1) == 0:
            num_coming = min(num_coming, len(self._ranked(standings, rung - 1)))
        return num_coming - num_reached


def _last(one: Standing) -> int:
    return len(one.values) - 1
