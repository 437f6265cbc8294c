import shutil

import pytest
import safetensors.torch
import torch
from support.repository import CONF

from convnets.book import figures, recipes
from convnets.book.recipes import Plan, Reproduction, finished_runs, measured_seconds
from convnets.configuration.rules import ConfigurationError
from convnets.files import RunFolderError
from convnets.results.trained_run import TrainedRun as Run
from convnets.training.command import compose
from convnets.training.train import train

QUICK = [
    "data=fashion_mnist_sample",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=2",
    "logger=none",
]


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """Make a folder that says it is a finished run of the configuration, with the weights of a LeNet."""
    trained = tmp_path_factory.mktemp("trained") / "run"
    train(compose([*QUICK, "callbacks=none"])[0], trained)

    def finished_run(path, *overrides):
        shutil.copytree(trained, path)
        run = Run(path)
        run.save_config(compose(overrides)[0])
        return run

    return finished_run


@pytest.fixture
def book_run(finished_run, tmp_path):
    def book_run(*changes):
        words = ["experiment=book/lenet", *changes]
        return finished_run(tmp_path / "runs" / compose(words)[1], *words)

    return book_run


def test_a_plan_trains_what_is_missing_and_only_that(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "measured_seconds", lambda config: 7.0)
    plan = Plan("lenet", 2, QUICK, tmp_path)
    assert "2 runs, 0 already in" in plan.cost()
    assert "training the other 2 takes about 14.0 s" in plan.cost()
    assert plan.published is None
    first = plan.carry_out()
    assert (len(first.accuracies), first.verdict) == (2, "nothing published to compare with")
    assert len(list(tmp_path.iterdir())) == 2

    more = Plan("lenet", 3, QUICK, tmp_path)
    assert "3 runs, 2 already in" in more.cost()
    assert [config.seed for _, config in more.missing] == [2]
    trained = []
    monkeypatch.setattr(recipes, "train", lambda config, path: (trained.append(config.seed), train(config, path))[1])
    assert more.carry_out().accuracies[:2] == first.accuracies
    assert trained == [2]
    assert "nothing to train" in more.cost()


def test_the_published_range_stands_also_where_the_recipe_is_changed():
    plan = Plan("resnet18", 1, ["trainer.precision=bf16-mixed"], CONF)
    assert plan.published == (0.899, 0.919)
    assert plan.recipe == "resnet18 trainer.precision=bf16-mixed"


def test_a_recipe_without_a_published_range_is_not_compared():
    assert Plan("densenet", 1, [], CONF).published is None


@pytest.mark.parametrize("override", ["seed=3", "run_name=mine", "data.seed=1"])
def test_what_would_count_one_run_twice_is_refused(override):
    with pytest.raises(ConfigurationError, match=rf"{override}: reproduce.py gives each run its seed and folder"):
        Plan("lenet", 2, [override], CONF)


def test_a_result_of_another_configuration_is_not_taken(finished_run, tmp_path):
    plan = Plan("lenet", 1, QUICK, tmp_path)
    finished_run(plan.runs[0][0].path, *QUICK, "model.lr=0.2")
    with pytest.raises(RunFolderError, match=r"model\.lr: 0\.2 there, 0\.1 now"):
        plan.carry_out()


def test_a_wrong_change_is_refused():
    with pytest.raises(ConfigurationError, match=r"model\.lr must be a number above 0, got -1"):
        Plan("lenet", 1, ["model.lr=-1"], CONF)


@pytest.mark.parametrize(
    ("accuracies", "verdict"), [((0.717, 0.718), "below"), ((0.72, 0.73), "inside"), ((0.737, 0.739), "above")]
)
def test_the_verdict_is_the_means(accuracies, verdict):
    reproduction = Reproduction("lenet", accuracies, (0.718, 0.737), 61.0)
    assert reproduction.verdict == verdict
    assert f"mean ± sd of 2 seeds; the book: 0.718 to 0.737; {verdict}; 1 min 01 s" in str(reproduction)


def test_one_seed_has_no_spread():
    assert "val accuracy 0.7300, mean of 1 seed;" in str(Reproduction("lenet", (0.73,), (0.718, 0.737), 61.0))


def test_the_cost_of_a_run_is_measured():
    config, _ = compose(["model=lenet", "trainer=cpu"])
    one = measured_seconds(config)
    assert 1 < one < 1000
    config.trainer.max_epochs = 100
    config.steps_per_execution = 39
    assert measured_seconds(config) > 2 * one


def test_finished_runs_are_those_of_the_recipe(book_run, tmp_path):
    run, other = book_run("seed=4"), book_run("trainer.precision=bf16-mixed")
    book_run("model.lr=0.2")
    assert {found.path for found in finished_runs("lenet", tmp_path / "runs")} == {run.path, other.path}
    assert not list(finished_runs("vgg", tmp_path / "runs"))


def test_figures_are_drawn_from_what_is_there_and_the_rest_is_named(book_run, tmp_path):
    lines = figures.draw_all(("lenet", "vgg", "resnet18"), tmp_path / "runs", tmp_path / "figures")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "edges.png", "edges.svg", "learned-kernel.png", "learned-kernel.svg",
    }  # fmt: skip
    missing = [line for line in lines if line.startswith("missing")]
    assert len(missing) == 3
    assert "missing: curves, filters and feature maps of lenet" in missing[0]
    assert "python scripts/reproduce.py lenet --seeds 1" in missing[0]

    book_run()
    lines = figures.draw_all(("lenet", "vgg", "resnet18"), tmp_path / "runs", tmp_path / "figures")
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert drawn == {
        "edges", "learned-kernel", "lenet-curves", "lenet-filters", "lenet-feature-maps-sweater",
        "lenet-feature-maps-coat",
    }  # fmt: skip
    assert len([line for line in lines if line.startswith("missing")]) == 2


def test_filters_are_the_runs_own(book_run):
    run = book_run()
    pictures = figures._lenet_pictures(run, "lenet")
    weights = safetensors.torch.load_file(run.path / "weights.safetensors")["0.weight"]
    drawn = torch.tensor(pictures["lenet-filters"].axes[0].images[0].get_array().data)
    panels = [drawn[:5, start : start + 5] for start in range(0, 36, 6)]  # a gap between each two
    assert all(torch.equal(panel.float(), weights[number, 0]) for number, panel in enumerate(panels))
