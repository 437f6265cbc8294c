import random

import pytest

from hydra_plugins.optuna_search._halving import Plan, Standing


def test_the_budget_is_known_before_the_search():
    plan = Plan.of(num_trials=27, num_epochs=9, first_epoch=1, reduction=3)
    assert plan.rungs == [1, 3, 9]
    assert [plan.num_beyond(rung) for rung in (-1, 0, 1)] == [27, 9, 3]
    assert plan.num_epochs == 27 * 1 + 9 * 2 + 3 * 6 == 63
    assert Plan.of(27, 10, 3, 3).rungs == [3, 10]
    assert Plan.of(2, 9, 1, 3).num_epochs == 2 + 2 + 6  # at least one trial is finished


@pytest.mark.parametrize(("first", "reduction", "key"), [(0, 3, "first_epoch"), (10, 3, "first_epoch"), (1, 1, "red")])
def test_a_plan_that_makes_no_sense_is_refused(first, reduction, key):
    with pytest.raises(ValueError, match=rf"halving\.{key}"):
        Plan.of(27, 9, first, reduction)


def searched(plan, values, num_places, order, fails=()):
    """Run a plan on places whose jobs end in a random order; the epochs spent, and who reached how many rungs."""
    standings, running, spent = {}, set(), 0
    while True:
        while len(running) < num_places:
            number = plan.next_trial([*standings.values()], running)
            if number is None:
                if len(standings) == plan.num_trials:
                    break
                standings[len(standings)] = Standing(len(standings))
                continue
            running.add(number)
        if not running:
            return spent, {number: len(one.values) for number, one in standings.items()}
        number = order.choice(sorted(running))
        running.remove(number)
        reached = [*standings[number].values, values[number][len(standings[number].values)]]
        spent += plan.rungs[len(reached) - 1] - (plan.rungs[len(reached) - 2] if len(reached) > 1 else 0)
        if (number, len(reached)) in fails:
            standings[number] = Standing(number, reached[:-1], failed=True)
        else:
            standings[number] = Standing(number, reached, ended=len(reached) == len(plan.rungs))


@pytest.mark.parametrize("num_trials", [1, 2, 9, 20, 27])
@pytest.mark.parametrize("num_places", [1, 2, 8])
def test_the_same_trials_go_on_whichever_is_faster(num_trials, num_places):
    draw = random.Random(num_trials)
    plan = Plan.of(num_trials, 9, 1, 3)
    values = [[round(draw.random(), 1) for _ in plan.rungs] for _ in range(num_trials)]  # with ties
    outcomes = {str(searched(plan, values, num_places, random.Random(seed))) for seed in range(20)}
    assert len(outcomes) == 1
    spent, reached = searched(plan, values, 1, random.Random(0))
    assert spent == plan.num_epochs
    going_on = [number for number, rungs in reached.items() if rungs > 1]
    best = sorted(range(num_trials), key=lambda number: (-values[number][0], number))[: len(going_on)]
    assert sorted(best) == going_on


@pytest.mark.parametrize("num_places", [1, 2, 8])
def test_another_takes_the_place_of_a_trial_that_fails(num_places):
    plan = Plan.of(9, 9, 1, 3)
    values = [[number / 10] * 3 for number in range(9)]
    fails = {(8, 3), (7, 2), (0, 1)}  # the best in its last stretch, the second best before, the worst at once
    for seed in range(20):
        _, reached = searched(plan, values, num_places, random.Random(seed), fails)
        assert reached == {8: 2, 7: 1, 6: 3, 5: 2, 4: 1, 3: 1, 2: 1, 1: 1, 0: 0}


def test_without_rungs_every_trial_is_run_to_its_end():
    spent, reached = searched(Plan(5), [[0.5]] * 5, 2, random.Random(0))
    assert (spent, set(reached.values())) == (5, {1})
