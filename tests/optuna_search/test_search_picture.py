import math

import pytest
from PIL import Image

optuna = pytest.importorskip("optuna", reason="needs the extra `search`: pip install -e '.[search]'")

from hydra_plugins.optuna_search._picture import draw_search, importances_of  # noqa: E402

SPACE = {
    "lr": optuna.distributions.FloatDistribution(1e-4, 1, log=True),
    "kind": optuna.distributions.CategoricalDistribution(["a", "b"]),
}


def searched(num_trials):
    """Nearer to 0.01 is better, the kind means nothing, and all but two trials are paused after the first epoch."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(num_trials):
        trial = study.ask(SPACE)
        value = -abs(math.log10(trial.params["lr"]) + 2)
        trial.report(value, 1)
        trial.set_user_attr("spent", [number + 1])
        study.tell(
            trial, *([value] if number < 2 else []), **({} if number < 2 else {"state": optuna.trial.TrialState.PRUNED})
        )
    return study


def test_paused_trials_say_what_matters(tmp_path):
    study = searched(27)
    importances = importances_of(study)
    assert list(importances) == ["kind", "lr"]
    assert importances["lr"] > 0.8
    draw_search(study, tmp_path / "search.png", "epochs")
    with Image.open(tmp_path / "search.png") as picture:
        assert picture.size == (1440, 340)


def test_too_few_trials_say_nothing(tmp_path):
    study = searched(1)
    assert importances_of(study) == {}
    draw_search(study, tmp_path / "search.png", "epochs")
