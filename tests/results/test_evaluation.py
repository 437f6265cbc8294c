import csv
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from convnets.configuration.rules import ConfigurationError
from convnets.files import RunFolderError
from convnets.results.evaluation import as_table, compare, comparison_as_table, evaluate
from convnets.results.leaderboard import validation_images
from convnets.results.significance import mcnemar
from convnets.results.trained_run import TrainedRun as Run
from convnets.training.train import train


@pytest.fixture(scope="module")
def adam(tmp_path_factory, small):
    return trained(small, tmp_path_factory, "trainer.max_epochs=4")


def trained(small, tmp_path_factory, *overrides):
    path = tmp_path_factory.mktemp("runs") / "run"
    train(small("optimizer=adamw", "trainer.limit_train_batches=null", *overrides), path)
    return Run(path)


@pytest.mark.parametrize(
    "overrides", [(), ("data.holdout=100",), ("trainer.precision=bf16-mixed", "data.batch_size=77")]
)
def test_evaluation_reproduces_the_figures_of_the_training(small, tmp_path_factory, overrides):
    run = trained(small, tmp_path_factory, "trainer.max_epochs=2", *overrides)
    for split in ("test", "val"):
        evaluation = evaluate(run, split)
        stage = "test" if split == "test" and overrides[:1] == ("data.holdout=100",) else "val"
        assert evaluation["accuracy"] == run.metrics[f"{stage}/accuracy"]
        assert evaluation["loss"] == run.metrics[f"{stage}/loss"]
        assert "the same to the last digit" in as_table(evaluation)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_run_of_a_gpu_is_evaluated_where_there_is_none(small, tmp_path_factory):
    run = trained(small, tmp_path_factory, "trainer.max_epochs=1")
    stored = run.path / "config.yaml"
    on_gpu = stored.read_text().replace("accelerator: cpu", "accelerator: gpu").replace("32-true", "16-mixed")
    assert on_gpu.count("accelerator: gpu") == on_gpu.count("16-mixed") == 1
    stored.write_text(on_gpu)
    assert evaluate(Run(run.path))["accuracy"] == run.metrics["val/accuracy"]


@pytest.mark.parametrize(
    ("accuracy", "loss", "said"),
    [
        (0.0, 0.0, "the same to the last digit"),
        (0.0, 3e-7, "the same but for rounding: the loss is 3.0e-07 lower"),
        (0.0, -3e-7, "the same but for rounding: the loss is 3.0e-07 higher"),
        (0.0, -0.00004, "differs: the loss is 4e-05 higher"),
        (0.0, 0.0123, "differs: the loss is 0.012 lower"),
        (-0.01, 0.0, "differs: here 2 more images are right"),
        (0.01, -0.5, "differs: here 2 more images are wrong, and the loss is 0.5 higher"),
    ],
)
def test_a_difference_from_the_reported_figures_is_stated_with_its_size(adam, accuracy, loss, said):
    evaluation = evaluate(adam)
    figures = {"accuracy": evaluation["accuracy"] + accuracy, "loss": evaluation["loss"] + loss}
    (line,) = [line for line in as_table({**evaluation, "reported": figures}).splitlines() if "reported" in line]
    assert line == f"as reported        {figures['accuracy']:.4f}  {said}"


def test_every_figure_follows_from_the_predictions_in_the_file(adam):
    evaluation = evaluate(adam)
    with (adam.path / "predictions-test.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels, predicted = (np.array([int(row[key]) for row in rows]) for key in ("label", "predicted"))
    probability = np.array([float(row["probability"]) for row in rows])
    assert labels.tolist() == adam.datamodule.splits["test"].labels.tolist()
    assert evaluation["num_images"] == len(rows) == 200
    assert evaluation["accuracy"] == (labels == predicted).mean()
    for number, row in enumerate(evaluation["classes"]):
        right = ((labels == number) & (predicted == number)).sum()
        assert row["recall"] == pytest.approx(right / (labels == number).sum())
        assert row["precision"] == pytest.approx(right / max((predicted == number).sum(), 1))
        assert evaluation["confusion_matrix"][number][number] == right
    assert np.sum(evaluation["confusion_matrix"]) == 200
    bins = np.clip(np.ceil(probability * 15).astype(int) - 1, 0, 14)
    gaps = [
        abs(probability[bins == b].mean() - (labels == predicted)[bins == b].mean()) * (bins == b).mean()
        for b in set(bins.tolist())
    ]
    assert evaluation["calibration_error"] == pytest.approx(sum(gaps), abs=1e-5)
    assert json.loads((adam.path / "evaluation-test.json").read_text()) == evaluation
    with Image.open(adam.path / "confusion-test.png") as picture:
        assert picture.size == (840, 768)


def test_the_training_images_can_be_evaluated_in_their_own_order(adam):
    evaluation = evaluate(adam, "train")
    assert evaluation["num_images"] == 1000
    assert evaluation["reported"] == {}
    assert "as reported" not in as_table(evaluation)


def test_a_run_without_weights_and_an_unknown_split_are_explained(small, tmp_path):
    Run(tmp_path).start(dict(small()))
    Run(tmp_path).set_status("interrupted", epoch=3)
    with pytest.raises(
        RunFolderError, match=r"has no weights: it is interrupted after epoch 3; to go on: python .*scripts"
    ):
        evaluate(Run(tmp_path))
    with pytest.raises(ConfigurationError, match="one of test, val, train, got 'all'"):
        evaluate(Run(tmp_path), "all")


def test_a_comparison_counts_the_images_that_each_run_gets_right(adam, small, tmp_path_factory):
    other = trained(small, tmp_path_factory, "trainer.max_epochs=1", "seed=1")
    comparison = compare(adam, other)
    right = []
    for run in (adam, other):
        with (run.path / "predictions-test.csv").open() as file:
            right.append([row["label"] == row["predicted"] for row in csv.DictReader(file)])
    pairs = list(zip(*right, strict=True))
    assert comparison["only_a_right"] == pairs.count((True, False))
    assert comparison["only_b_right"] == pairs.count((False, True))
    assert comparison["both_right"] == pairs.count((True, True))
    assert comparison["p_value"] == mcnemar(comparison["only_a_right"], comparison["only_b_right"])
    assert comparison["configuration"]["trainer.max_epochs"] == (4, 1)
    table = comparison_as_table(adam, other, comparison)
    assert "  seed " in table
    assert f"only A {comparison['only_a_right']}, only B {comparison['only_b_right']}" in table


@pytest.fixture(scope="module")
def of_folder(compose, tmp_path_factory):
    """A run on pictures of black and white squares in a folder."""
    folder = tmp_path_factory.mktemp("pictures")

    def of_folder(name, *overrides):
        for number in range(10):
            for label in ("black", "white"):
                path = folder / name / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (28, 28), label).save(path)
        config = compose(
            "data=image_folder", f"data.dir={folder / name}", f"data.cache_dir={folder / 'cache'}", "trainer=cpu",
            "data.stored_size=28", "data.channels=1", "data.batch_size=8", "trainer.max_epochs=1", "callbacks=none",
            "logger=none", *overrides,
        )  # fmt: skip
        path = tmp_path_factory.mktemp("runs") / "run"
        train(config, path)
        return Run(path)

    return of_folder


def test_runs_are_compared_and_ranked_together_on_the_same_test_images_only(of_folder):
    run, same = of_folder("a"), of_folder("a", "seed=1", "data.holdout=4")
    assert compare(run, same)["num_images"] == 4
    others = {
        "data.split_seed: 0 | 1": of_folder("a", "data.split_seed=1"),
        f"data.dir: {run.config.data.dir} | {run.config.data.dir[:-1]}b": of_folder("b"),
    }
    for difference, other in others.items():
        with pytest.raises(ConfigurationError, match=re.escape(f"cannot be compared.\n  {difference}")):
            compare(run, other)
    split = f"the test split of image_folder (dir={run.config.data.dir}, test_share=0.2, split_seed=0)"
    assert validation_images(run) == split
    assert len({validation_images(each) for each in others.values()} | {split}) == 3


def test_accuracies_on_other_images_are_not_subtracted(adam, small, tmp_path_factory):
    held_out = trained(small, tmp_path_factory, "trainer.max_epochs=1", "data.holdout=100")
    table = comparison_as_table(adam, held_out, compare(adam, held_out))
    lines = {line.split()[0]: line for line in table.splitlines() if "/" in line and line.startswith("  ")}
    assert lines["val/accuracy"].endswith("   on other images")
    assert "B - A" in lines["train/accuracy"]


def test_predictions_of_other_weights_are_not_reused(adam):
    before = evaluate(adam)["weights_sha256"]
    (adam.path / "predictions-test.csv").write_text("label,predicted,probability\n0,1,1\n")
    stored = json.loads((adam.path / "evaluation-test.json").read_text())
    (adam.path / "evaluation-test.json").write_text(json.dumps({**stored, "weights_sha256": "others"}))
    assert compare(adam, adam)["num_images"] == 200
    assert json.loads((adam.path / "evaluation-test.json").read_text())["weights_sha256"] == before
