"""The learning rate's course: any scheduler of torch.optim.lr_scheduler, as a file of conf/schedule describes it."""

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from omegaconf import OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, SequentialLR

from convnets.configuration.rules import METRICS
from convnets.training.instantiation import instantiate

NOT_TORCHS = ("steps_argument", "interval", "monitor")  # options that are no arguments of a scheduler
RATES = ("max_lr", "base_lr", "min_lr")  # arguments of schedulers that are rates, of each parameter group its own
MOST_TRIED = 10_000  # steps of a schedule before the training


def plans_steps(options: Mapping[str, Any]) -> bool:
    """Whether a schedule of these options depends on the length of the training."""
    return options.get("steps_argument") is not None or any(map(plans_steps, options.get("schedulers") or ()))


class Schedule:
    """A scheduler that is built once the optimizer and the number of steps are known.

    Args:
        options: `_target_`, the scheduler's arguments, and these, which torch does not have:
            steps_argument: the argument that takes the number of steps in the whole training. Within a SequentialLR it
                is the number of steps until the next scheduler's turn.
            interval: what a step of the scheduler is, an optimizer step (`step`) or an epoch (`epoch`), and so what its
                arguments count. By default `step` for a scheduler with a `steps_argument`, OneCycleLR and CyclicLR,
                and `epoch` for any other.
            monitor: the metric that ReduceLROnPlateau watches; by default `val/loss`.
            schedulers: of SequentialLR and ChainedScheduler, a list of such options, without interval and monitor.
        count_batches: returns how many training batches an epoch has, once the images are read.
        key: where the options stand in the configuration; for messages.

    Raises:
        ValueError: the options do not make sense.
    """

    def __init__(self, options: Mapping[str, Any], count_batches: Callable[[], int], key: str = "schedule") -> None:
        self.key = key
        self.count_batches = count_batches
        if not options.get("_target_"):
            raise ValueError(f"{key} has no _target_: name the class of a scheduler there.")
        arguments = {name: value for name, value in options.items() if name not in NOT_TORCHS}
        self.steps_argument: str | None = options.get("steps_argument")
        if self.steps_argument in arguments:
            raise ValueError(
                f"{key}.{self.steps_argument} takes the number of steps, as {key}.steps_argument says: remove one of "
                "the two from the schedule's file."
            )
        parts = arguments.pop("schedulers", ())
        if not isinstance(parts, Sequence) or not all(isinstance(part, Mapping) for part in parts):
            raise ValueError(f"{key}.schedulers must be a list of schedulers, each with a _target_, got {parts!r}.")
        self.parts = [Schedule(part, count_batches, f"{key}.schedulers[{index}]") for index, part in enumerate(parts)]
        self.partial = instantiate(OmegaConf.create({**arguments, "_partial_": True}))
        self.target = self.partial.func
        for name in ("interval", "monitor"):
            if key != "schedule" and name in options:
                raise ValueError(f"{key}.{name} cannot be set: all of a schedule has one, which is schedule.{name}.")
        self.milestones: Any = arguments.get("milestones")
        self.interval = self._interval(options)
        self.monitor = self._monitor(options)

    def _interval(self, options: Mapping[str, Any]) -> str:
        chosen = options.get("interval")
        if chosen not in (None, "step", "epoch"):
            raise ValueError(f"{self.key}.interval must be step or epoch, got {chosen!r}.")
        if self.target is ReduceLROnPlateau and chosen == "step":
            raise ValueError(
                f"{self.key}.interval=step does not go with ReduceLROnPlateau, whose metric comes once an epoch: set "
                "interval: epoch in the schedule's file, or remove it."
            )
        if chosen is None and self.key == "schedule" and self.parts and plans_steps(options):
            raise ValueError(
                f"{self.key} has a steps_argument within {self.target.__name__}: add interval: step or interval: epoch "
                "to the schedule's file, to say what its numbers count."
            )
        return chosen or ("step" if self.steps_argument or self.target in (OneCycleLR, CyclicLR) else "epoch")

    def _monitor(self, options: Mapping[str, Any]) -> str | None:
        if self.target is not ReduceLROnPlateau:
            if options.get("monitor") is not None:
                raise ValueError(
                    f"{self.key}.monitor is for ReduceLROnPlateau; {self.target.__name__} watches nothing: remove it "
                    "from the schedule's file."
                )
            return None
        metric, mode = options.get("monitor") or "val/loss", options.get("mode", "min")
        if metric not in METRICS:
            raise ValueError(f"{self.key}.monitor must be one of {', '.join(METRICS)}, got {metric!r}.")
        better = "max" if metric.endswith("accuracy") else "min"
        if mode in ("min", "max") and mode != better:
            raise ValueError(
                f"{self.key}.monitor={metric} is best at its {better}imum, and {self.key}.mode is {mode}: write mode: "
                f"{better} in the schedule's file."
            )
        return metric

    def build(self, optimizer: Optimizer, num_steps: int) -> LRScheduler:
        """Build torch's scheduler, which takes `num_steps` steps in the whole training."""
        arguments: dict[str, Any] = {}
        if self.steps_argument is not None:
            if num_steps < 1:
                raise ValueError(
                    f"{self.key} has no steps for its {self.steps_argument}: its turn comes at a milestone that is not "
                    "below the number of steps in the training. Lower the milestone, or train for more epochs."
                )
            arguments[self.steps_argument] = num_steps
        first, *others = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
        for name in RATES if others else ():  # such as a backbone's, whose rate stays that share of the head's
            if isinstance(rate := self.partial.keywords.get(name), (int, float)):
                arguments[name] = [rate, *(rate * other / first for other in others)]
        if self.parts:
            spans = self._spans(num_steps)
            arguments["schedulers"] = [
                part.build(optimizer, steps) for part, steps in zip(self.parts, spans, strict=True)
            ]
            return self.partial(optimizer=optimizer, **arguments)  # which is not ChainedScheduler's first argument
        return self.partial(optimizer, **arguments)

    def _spans(self, num_steps: int) -> list[int]:
        """Return the number of steps of each part."""
        if self.target is not SequentialLR:
            return [num_steps] * len(self.parts)
        rising = isinstance(self.milestones, list) and all(
            isinstance(second, int) and first < second for first, second in itertools.pairwise([0, *self.milestones])
        )
        if not rising or len(self.milestones) != len(self.parts) - 1:
            raise ValueError(
                f"{self.key}.milestones must be {len(self.parts) - 1} rising whole numbers above 0, the steps at which "
                f"the next of {len(self.parts)} schedulers has its turn, got {self.milestones!r}."
            )
        return [second - first for first, second in itertools.pairwise([0, *self.milestones, num_steps])]

    def _count_steps(self, trainer: lightning.Trainer) -> int:
        """Return how often the scheduler steps in the whole training."""
        assert trainer.max_epochs is not None
        if self.interval == "epoch":
            return trainer.max_epochs
        # Lightning's own estimate assumes that the accumulation never changes, and takes executions for steps.
        accumulated = [trainer.accumulate_grad_batches] * trainer.max_epochs
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):
                accumulated = [callback.get_accumulate_grad_batches(epoch) for epoch in range(trainer.max_epochs)]
        num_batches = self.count_batches()
        return sum(math.ceil(num_batches / number) for number in accumulated)

    def __call__(self, optimizer: Optimizer, trainer: lightning.Trainer) -> dict[str, Any]:
        """Build the scheduler, as Lightning takes it."""
        scheduler = self.build(optimizer, self._count_steps(trainer))
        if self.monitor is None:
            return {"scheduler": scheduler, "interval": self.interval}
        # The classifier steps it. Lightning would do so after the epoch's checkpoint, and never has its turn here.
        never = (trainer.max_epochs or 0) + 1
        return {"scheduler": scheduler, "interval": "epoch", "monitor": self.monitor, "frequency": never}

    def check(self, optimizer: Optimizer, trainer: lightning.Trainer) -> None:
        """Take the scheduler's steps before the training.

        Args:
            optimizer: one that no training uses.

        Raises:
            ValueError: the scheduler cannot be built, or fails in a later step.
        """
        num_steps = self._count_steps(trainer)
        name = f"{self.key} ({self.target.__module__}.{self.target.__qualname__})"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, that the optimizer takes no steps
                scheduler = self.build(optimizer, num_steps)
                for _ in range(min(num_steps, MOST_TRIED)):
                    scheduler.step(*([] if self.monitor is None else [0.0]))  # type: ignore[arg-type]
        except ValueError as error:
            if str(error).startswith(self.key):
                raise
            raise ValueError(f"{name}: {error}") from error
        except NotImplementedError as error:
            raise ValueError(
                f"{self.key}: torch does not take a ChainedScheduler or SequentialLR after a milestone: put its "
                "schedulers into the list of the outer one."
            ) from error
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
            raise ValueError(f"{name}: {type(error).__name__}: {error}. Compare its file with the class.") from error
