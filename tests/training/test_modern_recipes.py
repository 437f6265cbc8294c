"""The recipes of conf/experiment that hold records compose, say what they reached, and take steps."""

import re

import hydra
import pytest
from support.repository import CONF, hydra_context

from convnets.configuration.composition import adding_keys
from convnets.training.command import prepare
from convnets.training.train import train

FOLDER = CONF / "experiment"
FILES = [path for name in ("modern", "speedrun") for path in (FOLDER / name).rglob("*.yaml")]
RECIPES = sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FILES)
QUICK = (
    *("data=fashion_mnist_sample", "data.batch_size=20", "callbacks=none", "logger=none", "trainer.accelerator=cpu"),
    *("trainer.max_epochs=2", "trainer.limit_train_batches=2", "trainer.limit_val_batches=2"),
)


@pytest.mark.parametrize("recipe", [name for name in RECIPES if "without" not in name])
def test_a_recipe_takes_steps_and_is_validated_once(compose, tmp_path, recipe):
    config = compose(f"experiment={recipe}", *QUICK)
    assert config.data.holdout == 0
    result = train(config, tmp_path / "run")
    assert 0 <= result["metrics"]["val/accuracy"] <= 1
    assert result["num_parameters"] > 60_000
    header, first, last = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    place = header.split(",").index("val/accuracy")
    assert [row.split(",")[place] == "" for row in (first, last)] == [True, False]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_its_command(recipe):
    command = f"#   python scripts/train.py (-m )?experiment={recipe}( seed=[0-9,]+)?$"
    assert re.search(command, (FOLDER / f"{recipe}.yaml").read_text(), re.MULTILINE)


def test_each_job_of_the_ablation_is_without_one_ingredient():
    text = (CONF / "sweep" / "speedrun" / "ablation.yaml").read_text()
    base, *others = re.search('experiment: "(.*)"', text)[1].split(",")
    assert {*others} == {name for name in RECIPES if "without" in name}
    with hydra_context():

        def content_of(name):
            words = adding_keys([f"experiment={name}"])
            return prepare(hydra.compose("train", words, return_hydra_config=True))[0]

        whole = content_of(base)
        for name in others:
            config = content_of(name)
            changed = {group for group in config if config[group] != whole[group]} - {"changes", "choices", "expected"}
            assert len(changed) == 1 or (name.endswith("muon") and changed == {"model", "optimizer"}), (name, changed)
