import re

import pytest

from convnets.results.evaluation import evaluate
from convnets.results.export import export
from convnets.results.model_card import write_card
from convnets.results.trained_run import TrainedRun as Run
from convnets.training.train import train


@pytest.mark.parametrize("views", ["none", "mirror"])
def test_a_card_has_the_program_s_own_figures_and_code_that_runs(small, tmp_path, monkeypatch, views):
    train(small("trainer.max_epochs=1", f"test_time_augmentation={views}"), tmp_path / "run")
    run = Run(tmp_path / "run")
    card = write_card(run, export(run, "torch")).read_text()
    measured = evaluate(run, "test", "none")
    half_width = 1.96 * (measured["accuracy"] * (1 - measured["accuracy"]) / 200) ** 0.5
    assert f"| accuracy | {measured['accuracy']:.4f} ± {half_width:.4f} " in card
    assert "n = 200 images" in card
    assert ("The program takes one view." in card) == (views == "mirror")
    assert "The test split also validated the training." in card
    assert all(f"| {row['class']} | {row['images']} | {row['precision']:.4f} " in card for row in measured["classes"])
    assert "{" not in card.partition("```python")[0]
    monkeypatch.chdir(run.path)
    exec(re.search("```python\n(.*?)```", card, re.DOTALL)[1], found := {})
    assert found["scores"].shape == (1, 10)
