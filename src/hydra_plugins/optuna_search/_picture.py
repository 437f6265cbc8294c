"""A picture of a search: the best value over what was spent, which parameters mattered, and every trial by each."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

FEWEST_TO_COMPARE = 4  # trials


def draw_search(study: Study, path: Path, unit: str) -> None:
    """Write the picture; nothing where matplotlib is not installed.

    Args:
        unit: what `spent` in the trials' attributes counts.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return
    names = list(study.trials[0].distributions)
    importances = importances_of(study)
    figure = Figure(figsize=(3.6 * (2 + len(names)), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    first, second, *others = figure.subplots(1, 2 + len(names))
    first.step(*_best_over_spent(study), where="post", color="tab:blue")
    first.set(xlabel=f"{unit} spent", ylabel="best value so far", title="Search")
    second.barh([*importances], [*importances.values()], color="tab:blue")
    at = " at the first rung" if any(trial.intermediate_values for trial in study.trials) else ""
    second.set(title=f"Importance{at}" if importances else "Importance: too few trials", xlim=(0, 1))
    for axes, name in zip(others, names, strict=True):
        _draw_slice(axes, name, study.trials)
    figure.savefig(path, dpi=100)


def importances_of(study: Study) -> dict[str, float]:
    """How much each key explains of the values that trials showed first, by PED-ANOVA; the least comes first.

    All trials showed one after the same epoch, those that were paused later, too. Empty where too few did.
    """
    first = optuna.create_study(direction=study.direction)
    for trial in study.trials:
        if values := _values(trial):
            first.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=values[0]))
    if len(first.trials) < FEWEST_TO_COMPARE:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the evaluator is experimental
        try:
            found = get_param_importances(first, evaluator=PedAnovaImportanceEvaluator())
        except (RuntimeError, ValueError):  # such as of values that are all the same
            return {}
    return dict(reversed(found.items()))


def _best_over_spent(study: Study) -> tuple[list[int], list[float]]:
    """What had been spent each time that a trial showed a value, and the best value by then."""
    points = [
        (spent, value)
        for trial in study.trials
        for spent, value in zip(trial.user_attrs.get("spent", []), _values(trial), strict=False)
    ]
    best = max if study.direction == StudyDirection.MAXIMIZE else min
    spent: list[int] = []
    values: list[float] = []
    for total, value in sorted(points):
        spent.append(total)
        values.append(best(value, values[-1]) if values else value)
    return spent, values


def _values(trial: FrozenTrial) -> list[float]:
    own = [] if trial.state != TrialState.COMPLETE or trial.value is None else [trial.value]
    return [*(value for _, value in sorted(trial.intermediate_values.items())), *own]


def _draw_slice(axes: Any, name: str, trials: Sequence[FrozenTrial]) -> None:
    """The values of all trials by one parameter; paused ones, with their last value, are hollow."""
    distribution = trials[0].distributions[name]
    for state, face in ((TrialState.PRUNED, "none"), (TrialState.COMPLETE, "tab:blue")):
        shown = [trial for trial in trials if trial.state == state and trial.value is not None]
        axes.scatter(
            [trial.params[name] for trial in shown],
            [trial.value for trial in shown],
            facecolors=face,
            edgecolors="tab:blue",
        )
    axes.set(xlabel=name, title="Trials")
    if getattr(distribution, "log", False):
        axes.set_xscale("log")
