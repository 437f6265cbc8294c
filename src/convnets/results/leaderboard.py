"""The leaderboard in numbers: runs grouped by recipe, ranked, and compared with the best over their seeds."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convnets.configuration.composition import GROUPS
from convnets.configuration.rules import ConfigurationError, unknown_key
from convnets.results.significance import Estimate, difference, holm
from convnets.runs.run import Run
from convnets.text import count

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, or in the keys that they are not grouped by.

    Args:
        choices: the values of the keys that name the group.
        estimates: of the ranking's metric and of every other final number of all its runs.
    """

    label: str
    choices: Mapping[str, Any]
    runs: Sequence[Run]
    estimates: Mapping[str, Estimate]

    def mean(self, name: str) -> float | None:
        """The mean of a final number; None where some run lacks it."""
        return self.estimates[name].mean if name in self.estimates else None


@dataclass(frozen=True)
class Comparison:
    """The best group against another.

    Args:
        behind: distance between the means of the groups.
        lead: the difference that was tested, positive where the best is better: the mean over pairs, or `behind`.
        num_pairs: runs compared one by one; 0 where Welch's test compared the groups.
        p_value: of the lead; None where there is no spread to compare with.
        corrected: the p-value after Holm's correction for the number of comparisons.
    """

    behind: float
    lead: float
    num_pairs: int
    p_value: float | None
    corrected: float | None

    @property
    def is_beyond_the_spread(self) -> bool:
        """Whether seeds alone would make such a difference in less than 5 % of cases."""
        return self.corrected is not None and self.corrected < SIGNIFICANT


@dataclass(frozen=True)
class Board:
    """Groups that were validated on the same images, best first, and each but the first compared with the best."""

    validated_on: str
    on_test_split: bool
    groups: Sequence[Group]
    comparisons: Sequence[Comparison]


@dataclass(frozen=True)
class Leaderboard:
    """All that a report shows.

    Args:
        keys: what names the groups.
        pooled: swept keys that are not among `keys`, so that a group mixes their values.
        paused: runs that a search stopped for good, or for now.
        unfinished: every other run without a result.
        warnings: what makes the figures less comparable than they look.
    """

    metric: str
    keys: Sequence[str]
    pooled: Sequence[str]
    boards: Sequence[Board]
    runs: Sequence[Run]
    paused: Sequence[Run]
    unfinished: Sequence[Run]
    warnings: Sequence[str]


def build_leaderboard(runs: Sequence[Run], metric: str = "val/accuracy", by: Sequence[str] = ()) -> Leaderboard:
    """Group the runs, rank the groups by the mean of a metric, compare them with the best.

    Args:
        by: groups or dotted keys to group by; by default whatever differs but the seed.

    Raises:
        ConfigurationError: no run has the metric or the key.
    """
    readable = _chosen_alike([run for run in runs if run.settings])
    done = [run for run in readable if run.state == "done"]
    ranked = [run for run in done if run.value(metric) is not None]
    if done and not ranked:
        known = sorted({name for run in done for name in [*run.result.get("metrics", {}), "seconds"]})
        raise ConfigurationError(f"No finished run has {metric}. --metric is one of: {', '.join(known)}.")
    for key in by:
        if readable and not any(key in run.values or key in run.settings for run in readable):
            raise ConfigurationError(unknown_key(key, {key: None for run in readable for key in run.values}))
    swept = swept_keys([run.settings for run in readable])
    keys = list(by) or naming_keys(readable)
    pooled = [key for key in swept if key not in keys]
    counted = _one_a_seed(ranked, keys)
    boards = [
        _board(validated_on, members, metric, keys, pooled, by)
        for validated_on, members in _groups_of(counted, lambda run: validation_images(run, metric)).items()
    ]
    boards.sort(key=lambda board: (board.on_test_split, -sum(len(g.runs) for g in board.groups), board.validated_on))
    warnings = _warnings(counted)
    if repeated := len(ranked) - len(counted):
        warnings.append(f"{count(repeated, 'run')} left out: others repeat their configuration and seed, later.")
    if without := len(done) - len(ranked):
        warnings.append(f"{count(without, 'finished run')} left out, without {metric}.")
    groups = [group.runs for board in boards for group in board.groups]
    if mixed := [key for key in pooled if any(len({_values(run, [key]) for run in same}) > 1 for same in groups)]:
        warnings.append(f"A group's runs differ in {', '.join(mixed)} too: its spread is not that of seeds alone.")
    paused = [run for run in runs if run.state == "paused"]
    unfinished = [run for run in runs if run.state not in ("done", "paused")]
    return Leaderboard(metric, keys, pooled, boards, runs, paused, unfinished, warnings)


def lower_is_better(metric: str) -> bool:
    """Whether a small value of the metric is a good one."""
    return any(word in metric for word in ("loss", "error", "seconds"))


def figures(board: Board, metric: str) -> list[dict[str, Any]]:
    """What the tables say of each group, best first: its place, its figures, and its distance from the best."""
    rows = []
    for rank, (group, comparison) in enumerate(zip(board.groups, [None, *board.comparisons], strict=True), start=1):
        estimate = group.estimates[metric]
        rows.append({
            "validated_on": board.validated_on, "rank": rank, "runs": group.label,
            **{key: None if value is None else as_text(value) for key, value in group.choices.items()},
            "metric": metric, "n": estimate.n, "mean": estimate.mean, "sd": estimate.sd,
            "half_width_95": estimate.half_width,
            "behind_best": comparison and comparison.behind, "lead_tested": comparison and comparison.lead,
            "pairs": comparison and comparison.num_pairs, "p": comparison and comparison.p_value,
            "p_corrected": comparison and comparison.corrected,
            **{name: group.mean(name) for name in ("test/accuracy", "seconds", "images_per_second")},
        })  # fmt: skip
    return rows


def validation_images(run: Run, metric: str = "val/accuracy") -> str:
    """The images that the metric was computed on, in words. Runs are ranked together only where these are the same."""
    stage = metric.partition("/")[0]
    if run.validated_on_test_split():
        text = "the test split"
    elif stage == "val":
        folds = run.values.get("data.folds")
        text = f"one of {folds} folds" if folds else f"{run.values.get('data.holdout'):,} held-out training images"
        text += f" (split_seed={run.values['data.split_seed']})" if run.values.get("data.split_seed") else ""
    else:
        text = "held-out training images"
    limit = run.values.get(f"trainer.limit_{stage}_batches")
    if limit is not None and not (isinstance(limit, float) and limit == 1):
        text += f", only {limit} batches of {run.values.get('data.batch_size')}"
    which = run.test_images
    target = which.pop("data._target_", None)
    data = run.settings["data"] or target
    details = ", ".join(f"{key.removeprefix('data.')}={value}" for key, value in which.items() if value != data)
    return text if data == "fashion_mnist" else f"{text} of {data}{details and f' ({details})'}"


def swept_keys(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """As few keys as tell all settings apart, groups first: a key that follows from another is left out."""
    distinct = list({json.dumps(each, sort_keys=True): each for each in settings}.values())
    others = {key for each in distinct for key in each if key not in GROUPS}
    candidates = [*GROUPS, *sorted(others, key=lambda key: (key == "code", key))]
    swept: list[str] = []
    told_apart = [0] * len(distinct)
    for key in candidates:
        numbers: dict[tuple[int, str], int] = {}
        refined = [
            numbers.setdefault((number, as_text(each.get(key))), len(numbers))
            for number, each in zip(told_apart, distinct, strict=True)
        ]
        if len(numbers) > len(set(told_apart)):
            swept.append(key)
            told_apart = refined
    return swept


def naming_keys(runs: Iterable[Run]) -> list[str]:
    """The model, and as few keys as tell the runs apart."""
    return ["model", *(key for key in swept_keys([run.settings for run in runs]) if key != "model")]


def differing(runs: Sequence[Run]) -> set[str]:
    """The keys whose values differ between the runs."""
    keys = {key for run in runs for key in run.settings}
    return {key for key in keys if len({as_text(run.settings.get(key)) for run in runs}) > 1}


def as_text(value: Any) -> str:
    """A value as one would type it."""
    if value is None:
        return "none"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _chosen_alike(runs: Sequence[Run]) -> list[Run]:
    """The same runs, where all runs of one recipe have the choices of the first: it may be written in several ways.

    Where one recipe was trained by different code, the runs get a setting `code`, which tells them apart.
    """
    alike = []
    for same in _groups_of(runs, lambda run: run.recipe).values():
        choices = {group: same[0].settings.get(group) for group in GROUPS}
        codes = {
            run.path: hashlib.sha256(json.dumps(run.code["modules"]).encode()).hexdigest()[:6]
            for run in same
            if run.code.get("modules") and run.state == "done"
        }
        for run in same:
            code = {"code": codes[run.path]} if run.path in codes and len({*codes.values()}) > 1 else {}
            alike.append(run.with_settings({**run.settings, **choices, **code}, same[0].changes))
    return alike


def label(run: Run, keys: Sequence[str], own: Collection[str] = ()) -> str:
    """The name of a run among others, as one would type it: the model, then keys and values.

    Args:
        keys: always named.
        own: keys in which the runs differ, named where this run has changed them.
    """
    words = [str(run.settings["model"])] if "model" in keys else []
    keys = [*keys, *(key for key in run.changes if key in own and key not in keys)]
    named = {key: run.setting(key) for key in keys if key != "model"}
    return " ".join([*words, *(f"{key}={as_text(value)}" for key, value in named.items() if value is not None)])


def _groups_of(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _one_a_seed(runs: Sequence[Run], keys: Sequence[str]) -> list[Run]:
    """The newest run of each configuration and seed: repeating one is no second measurement."""
    by_age = sorted(runs, key=lambda run: str(run.result.get("finished", "")))
    newest = {(run.recipe, run.seeds, _values(run, keys)): run for run in by_age}
    return sorted(newest.values(), key=lambda run: (run.recipe, str(run.seeds)))


def _values(run: Run, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(as_text(run.setting(key)) for key in keys)


def _board(
    validated_on: str,
    runs: Sequence[Run],
    metric: str,
    keys: Sequence[str],
    pooled: Sequence[str],
    by: Sequence[str],
) -> Board:
    names, own = (by, ()) if by else (naming_keys(runs), differing(runs))
    members = _groups_of(runs, lambda run: _values(run, keys))
    groups = [_group(same, metric, keys, names, own) for same in members.values()]
    groups.sort(key=lambda group: group.estimates[metric].mean, reverse=not lower_is_better(metric))
    comparisons = _compare(groups, metric, pooled)
    return Board(validated_on, runs[0].validated_on_test_split(), groups, comparisons)


def _compare(groups: Sequence[Group], metric: str, pooled: Sequence[str]) -> list[Comparison]:
    """Compare the first group with each of the others."""
    best, *others = [_sample(group, metric, pooled) for group in groups]
    differences = [difference(best, other) for other in others]
    corrected = iter(holm([each.p_value for each in differences if each.p_value is not None]))
    comparisons = []
    for group, found in zip(groups[1:], differences, strict=True):
        behind = abs(groups[0].estimates[metric].mean - group.estimates[metric].mean)
        lead = -found.mean if lower_is_better(metric) else found.mean
        p_value = None if found.p_value is None else next(corrected)
        comparisons.append(Comparison(behind, lead, found.num_pairs, found.p_value, p_value))
    return comparisons


def _group(runs: Sequence[Run], metric: str, keys: Sequence[str], names: Sequence[str], own: Collection[str]) -> Group:
    figures = [metric, *runs[0].result.get("metrics", {}), "seconds", "train_seconds", "images_per_second"]
    values = {name: [value for run in runs if (value := run.value(name)) is not None] for name in figures}
    estimates = {name: Estimate.of(known) for name, known in values.items() if len(known) == len(runs)}
    return Group(label(runs[0], names, own), {key: runs[0].setting(key) for key in keys}, runs, estimates)


def _sample(group: Group, metric: str, pooled: Sequence[str]) -> dict[Hashable, float]:
    """The metric of each run, by what pairs it with a run of another group: the seed, and the pooled settings."""
    values = [(run, run.value(metric)) for run in group.runs]
    return {(run.seeds, _values(run, pooled)): value for run, value in values if value is not None}


def _warnings(runs: Sequence[Run]) -> list[str]:
    """What differs between the runs beside their configuration."""

    def mixed(what: str, values: Iterable[Any]) -> list[str]:
        counter = Counter(str(value or "unknown") for value in values)
        return [f"{what}: {_counts(counter)}."] if len(counter) > 1 else []

    versions = [run.result.get("versions", {}) for run in runs]
    warnings = []
    for name in sorted({name for each in versions for name in each}):
        warnings += mixed(f"Mixed versions of {name}", (each.get(name) for each in versions))
    warnings += mixed("Mixed versions of this code", (run.result.get("git_commit") for run in runs))
    digests = _groups_of({item for run in runs for item in run.code.get("modules", {}).items()}, lambda item: item[0])
    if several := [f"{name} ({len(found)} versions)" for name, found in sorted(digests.items()) if len(found) > 1]:
        warnings.append(f"Runs were trained by different code: {', '.join(several)}.")
    if changed := sum("earlier" in run.code for run in runs):
        warnings.append(f"{count(changed, 'run')} went on by other code than begun with.")
    if early := Counter(reason for run in runs if (reason := run.result.get("ended_early"))):
        warnings.append(f"Ended before the last epoch: {_counts(early)}.")
    devices = (run.result.get("device") for run in runs)
    return warnings + mixed("Mixed devices, so seconds and images per second do not compare", devices)


def _counts(counter: Counter[str], most: int = 4) -> str:
    words = [f"{name} ({count(number, 'run')})" for name, number in counter.most_common(most)]
    return ", ".join([*words, *([f"{len(counter) - most} more"] if len(counter) > most else [])])
