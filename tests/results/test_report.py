import base64
import csv
import itertools
import json
import math
import os
import random
import re
import statistics

import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image
from support import commands
from support.repository import CONF, ROOT

from convnets.configuration.composition import GROUPS
from convnets.configuration.content import content, holds_out
from convnets.configuration.rules import ConfigurationError
from convnets.files import RunFolderError
from convnets.results.leaderboard import build_leaderboard
from convnets.results.leaderboard_figure import NUM_COLORED, draw
from convnets.results.page import write_page
from convnets.results.report import as_markdown, groups_as_csv, runs_as_csv, verdict
from convnets.results.trained_run import TrainedRun as Run
from convnets.runs.finding import find_folders, find_runs
from convnets.runs.lock import is_held, locked
from convnets.runs.run import read_run
from convnets.training.train import train

VERSIONS = {"python": "3.11.7", "torch": "2.15.0"}
HEADER = "epoch,train/loss,val/loss,val/accuracy\n"


@pytest.fixture
def make_run(compose, tmp_path):
    """Write the folder of a run as training leaves it: the composed configuration, and the result asked for."""
    number = itertools.count()

    def make_run(*overrides, accuracy=None, test=None, state="done", seconds=30.0, folder=None, status=(), **result):
        path = tmp_path / (folder or f"sweep/{next(number)}")
        path.mkdir(parents=True)
        config = compose(*overrides)
        OmegaConf.save(config, path / "config.yaml")
        told = {"state": state, "epoch": 10, **dict(status)}
        (path / "status.json").write_text(json.dumps(told))
        if accuracy is not None:
            (path / "metrics.csv").write_text(f"{HEADER}1,2.0,2.1,0.1\n2,1.0,1.1,{accuracy}\n")
            metrics = {"val/accuracy": accuracy, "val/loss": 1 - accuracy}
            metrics |= {} if test is None else {"test/accuracy": test}
            protocol = "holdout" if holds_out(config) else "test split"
            told = {"metrics": metrics, "epochs": 10, "validated_on": protocol, "seconds": seconds, "device": "a GPU"}
            told |= {"images_per_second": 600_000 / seconds, "versions": VERSIONS, "git_commit": "abc", **result}
            (path / "result.json").write_text(json.dumps(told))
            (path / "weights.safetensors").write_bytes(b"weights")
        return path

    return make_run


def read_all(folder):
    return [read_run(path) for path in find_runs([folder])]


def labels(board):
    return [group.label for group in board.groups]


def test_groups_differ_in_more_than_the_seed_and_are_named_by_what_varies(make_run, tmp_path):
    accuracies = {"lenet": [0.731, 0.735, 0.741], "vgg": [0.89, 0.90, 0.88], "resnet18": [0.91, 0.905, 0.9]}
    for model, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            make_run(f"model={model}", f"seed={seed}", accuracy=accuracy, seconds=100 + seed)
    (board,) = build_leaderboard(read_all(tmp_path)).boards
    assert labels(board) == ["resnet18", "vgg", "lenet"]  # model.lr and data.resize follow from the model
    for group in board.groups:
        values = accuracies[group.label]
        estimate = group.estimates["val/accuracy"]
        assert (estimate.n, estimate.mean) == (3, pytest.approx(statistics.fmean(values)))
        assert estimate.sd == pytest.approx(statistics.stdev(values))
        assert estimate.half_width == pytest.approx(4.3027 * statistics.stdev(values) / math.sqrt(3), rel=1e-4)
        assert group.estimates["seconds"].mean == 101
    make_run("model=lenet", "model.lr=0.5", "init=kaiming", accuracy=0.5)
    (board,) = build_leaderboard(read_all(tmp_path)).boards
    assert labels(board)[2:] == ["lenet init=xavier", "lenet init=kaiming model.lr=0.5"]


def test_hardware_and_versions_make_no_group_but_are_reported(make_run, tmp_path):
    make_run("seed=0", accuracy=0.7, device="1 x H100")
    make_run("seed=1", "trainer=gpu", "trainer.devices=2", accuracy=0.72, device="2 x H100", versions={"torch": "2.14"})
    leaderboard = build_leaderboard(read_all(tmp_path))
    assert [group.estimates["val/accuracy"].n for group in leaderboard.boards[0].groups] == [2]
    text = as_markdown(leaderboard, "T")
    assert "Mixed versions of torch: 2.15.0 (1 run), 2.14 (1 run)." in text
    assert "Mixed versions of python: 3.11.7 (1 run), unknown (1 run)." in text
    assert "seconds and images per second do not compare: 1 x H100 (1 run), 2 x H100 (1 run)." in text
    assert "of this code" not in text


@pytest.mark.parametrize("group", GROUPS[:-1])
def test_every_choice_in_conf_is_recorded_as_it_was_made(make_run, group):
    for path in (CONF / group).glob("*.yaml"):
        assert read_run(make_run(f"{group}={path.stem}")).settings[group] == path.stem


def test_optimizers_of_one_class_are_named_by_their_choices(make_run, tmp_path):
    for optimizer in ("sgd", "momentum", "adamw"):
        make_run(f"optimizer={optimizer}", accuracy=0.7)
    (board,) = build_leaderboard(read_all(tmp_path)).boards
    assert {*labels(board)} == {"lenet optimizer=sgd", "lenet optimizer=momentum", "lenet optimizer=adamw"}


def test_one_recipe_written_in_two_ways_is_one_row(make_run, tmp_path):
    make_run("optimizer=momentum", "seed=0", accuracy=0.7)
    make_run("optimizer.momentum=0.9", "seed=1", accuracy=0.8)
    make_run(accuracy=0.6)
    (board,) = build_leaderboard(read_all(tmp_path)).boards
    assert [(group.label, len(group.runs)) for group in board.groups] == [
        ("lenet optimizer=momentum", 2),
        ("lenet optimizer=sgd", 1),
    ]


SWEPT = {
    "an optimizer changed, and another": [["optimizer=momentum", "optimizer.momentum=0.5"], [], ["optimizer=adamw"]],
    "choices of the trainer": [["trainer=smoke", "trainer.limit_val_batches=null"], ["trainer.max_epochs=3"]],
    "rates in many digits": [["model.lr=0.30000000000000004"], ["model.lr=0.3"]],
    "models with rates of their own": [["model=vgg", "model.lr=0.2"], ["model=resnet18"], ["optimizer.lr=0.2"]],
}


@pytest.mark.parametrize("swept", SWEPT.values(), ids=SWEPT)
def test_a_label_typed_back_trains_the_same_thing(make_run, compose, tmp_path, swept):
    shared = ("data.resize=32", "schedule=cosine")
    for overrides in swept:
        make_run(*shared, *overrides, accuracy=0.7)
    groups = [group for board in build_leaderboard(read_all(tmp_path)).boards for group in board.groups]
    assert len(groups) == len(swept)
    for group in groups:
        model, *words = group.label.split(" ")
        assert content(compose(*shared, f"model={model}", *words)) == content(Run(group.runs[0].path).config)


def test_different_code_of_one_module_is_a_warning(make_run, tmp_path):
    for model, digest, extra in (("lenet", "a", {}), ("vgg", "a", {}), ("resnet18", "b", {"earlier": [{}]})):
        path = make_run(f"model={model}", accuracy=0.7)
        record = {"modules": {"convnets.classifier": digest, f"convnets.networks.{model}": model}, **extra}
        (path / "code.json").write_text(json.dumps(record))
    assert build_leaderboard(read_all(tmp_path)).warnings == [
        "Runs were trained by different code: convnets.classifier (2 versions).",
        "1 run went on by other code than begun with.",
    ]


def test_one_configuration_by_different_code_is_two_rows(make_run, tmp_path):
    for seed, digest in ((0, "a"), (1, "a"), (0, "b")):
        path = make_run(f"seed={seed}", accuracy=0.7 + seed / 100)
        (path / "code.json").write_text(json.dumps({"modules": {"convnets.networks.lenet": digest}}))
    (board,) = build_leaderboard(read_all(tmp_path)).boards
    assert [(re.sub(r"\b[0-9a-f]{6}\b", "...", group.label), len(group.runs)) for group in board.groups] == [
        ("lenet code=...", 2),
        ("lenet code=...", 1),
    ]


def test_unfinished_runs_do_not_split_a_group_by_code(make_run, tmp_path):
    path = make_run("seed=0", accuracy=0.7)
    (path / "code.json").write_text(json.dumps({"modules": {"convnets.networks.lenet": "a"}}))
    make_run("seed=1", state="failed")
    (board,) = build_leaderboard(read_all(tmp_path)).boards
    assert labels(board) == ["lenet"]


def test_runs_validated_on_different_images_are_never_ranked_together(make_run, tmp_path):
    for seed in (0, 1):
        make_run(f"seed={seed}", accuracy=0.9)
        make_run(f"seed={seed}", "data.holdout=5000", accuracy=0.8, test=0.75)
        make_run(f"seed={seed}", "data.holdout=10000", "data.split_seed=3", accuracy=0.7, test=0.78)
    make_run("data=fashion_mnist_sample", accuracy=0.4)
    make_run("trainer=smoke", accuracy=0.1)
    leaderboard = build_leaderboard(read_all(tmp_path))
    assert [board.validated_on for board in leaderboard.boards] == [
        "10,000 held-out training images (split_seed=3)",
        "5,000 held-out training images",
        "the test split",
        "the test split of fashion_mnist_sample",
        "the test split, only 2 batches of 128",
    ]
    assert [len(board.groups) for board in leaderboard.boards] == [1] * 5
    text = as_markdown(leaderboard, "T")
    assert text.count("Fit for comparing with the book. To choose by, validate on held-out") == 3
    assert text.count("test/accuracy") == 2  # a column where the test split did not validate
    by_test = build_leaderboard(read_all(tmp_path), "test/accuracy")
    (board,) = by_test.boards  # the same test images, looked at once
    assert labels(board) == ["lenet data.holdout=10000 data.split_seed=3", "lenet data.holdout=5000"]
    assert "4 finished runs left out, without test/accuracy." in by_test.warnings


@pytest.mark.parametrize(("metric", "first"), [("val/accuracy", 0.8), ("val/loss", 0.8), ("seconds", 0.6)])
def test_the_best_is_the_highest_or_the_lowest_by_the_kind_of_metric(make_run, tmp_path, metric, first):
    for accuracy, seconds in ((0.6, 10), (0.7, 30), (0.8, 20)):
        make_run(f"model.lr={accuracy}", accuracy=accuracy, seconds=seconds)
    (board,) = build_leaderboard(read_all(tmp_path), metric).boards
    assert labels(board)[0] == f"lenet model.lr={first}"


def test_differences_are_paired_over_seeds_and_corrected(make_run, tmp_path):
    """Seeds move both alike, so that pairs tell what the spreads of the groups hide."""
    luck = [0.0, 0.02, 0.05]
    gains = {"xavier": [0.0, 0.0, 0.0], "kaiming": [0.010, 0.012, 0.011], "default": [0.0105, 0.009, 0.012]}
    for init, gain in gains.items():
        for seed in range(3):
            make_run(f"init={init}", f"seed={seed}", accuracy=0.7 + luck[seed] + gain[seed])
    (board,) = build_leaderboard(read_all(tmp_path)).boards
    assert labels(board) == ["lenet init=kaiming", "lenet init=default", "lenet init=xavier"]
    even, ahead = board.comparisons
    # t = 0.011 / (0.001 / sqrt(3)), whose tail at 2 degrees of freedom has a closed form; the smaller p counts double
    t = 0.011 / (0.001 / math.sqrt(3))
    assert ahead.p_value == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-6)
    assert ahead.corrected == pytest.approx(2 * ahead.p_value)
    best, second, third = board.groups
    assert verdict(best, third, ahead) == (
        "lenet init=kaiming is ahead of lenet init=xavier by 0.0110 (paired over 3 seeds, p = 0.0055)."
    )
    assert verdict(best, second, even).startswith(
        "No difference beyond the spread between lenet init=kaiming and lenet init=default: 0.0005 (paired over 3 seeds"
    )
    assert "p is corrected for 2 comparisons (Holm)." in as_markdown(build_leaderboard(read_all(tmp_path)), "T")


def test_without_common_seeds_welch_compares_and_one_run_gets_no_verdict(make_run, tmp_path):
    for seed, accuracy in enumerate([0.80, 0.81, 0.82]):
        make_run("init=kaiming", f"seed={seed}", accuracy=accuracy)
        make_run("init=xavier", f"seed={seed + 10}", accuracy=accuracy - 0.2)
    make_run("init=default", accuracy=0.1)
    (board,) = build_leaderboard(read_all(tmp_path)).boards
    text = as_markdown(build_leaderboard(read_all(tmp_path)), "T")
    assert board.comparisons[0].num_pairs == 0
    assert "lenet init=kaiming is ahead of lenet init=xavier by 0.2000 (Welch's test, p < 0.001)." in text
    assert "ahead of lenet init=default by 0.7100: too few runs to say whether beyond the spread." in text


def test_the_order_over_common_seeds_may_differ_from_that_of_the_means(make_run, tmp_path):
    """The best has a lucky seed that the other lacks; where both ran, the other is better."""
    for seed, accuracy in enumerate([0.700, 0.701, 0.699, 0.80]):
        make_run("init=kaiming", f"seed={seed}", accuracy=accuracy)
    for seed, accuracy in enumerate([0.7102, 0.7111, 0.709]):
        make_run("init=xavier", f"seed={seed}", accuracy=accuracy)
    (board,) = build_leaderboard(read_all(tmp_path)).boards
    assert labels(board) == ["lenet init=kaiming", "lenet init=xavier"]
    (comparison,) = board.comparisons
    assert comparison.behind == pytest.approx(0.725 - 0.7101)
    assert comparison.lead == pytest.approx(-0.0101)
    assert verdict(*board.groups, comparison) == (
        "lenet init=xavier is ahead of lenet init=kaiming by 0.0101 (paired over 3 seeds, p < 0.001)."
    )


def test_grouping_by_some_keys_pools_the_others_and_pairs_runs_equal_in_them(make_run, tmp_path):
    for seed, init in itertools.product((0, 1), ("xavier", "kaiming")):
        for model, accuracy in (("lenet", 0.7), ("vgg", 0.8)):
            wobble = 0.01 * seed * (model == "vgg")
            make_run(f"model={model}", f"init={init}", f"seed={seed}", accuracy=accuracy + wobble)
    leaderboard = build_leaderboard(read_all(tmp_path), by=["model"])
    (board,) = leaderboard.boards
    assert labels(board) == ["vgg", "lenet"]
    assert board.comparisons[0].num_pairs == 4
    text = as_markdown(leaderboard, "T")
    assert "(paired over 4 runs alike in all else, p <" in text
    assert "A group's runs differ in init too: its spread is not that of seeds alone." in text
    leaderboard = build_leaderboard(read_all(tmp_path), by=["data.resize", "init", "trainer.gradient_clip_val"])
    assert labels(leaderboard.boards[0])[0].startswith("data.resize=224 init=")
    assert leaderboard.warnings == []  # the size says which model it was


def test_a_repeated_seed_counts_once(make_run, tmp_path):
    make_run("seed=0", accuracy=0.7, finished="2026-01-01")
    make_run("seed=0", accuracy=0.8, finished="2026-01-02", folder="other/again")
    make_run("seed=1", accuracy=0.9)
    leaderboard = build_leaderboard(read_all(tmp_path))
    assert leaderboard.boards[0].groups[0].estimates["val/accuracy"].mean == pytest.approx(0.85)
    assert "1 run left out: others repeat their configuration and seed, later." in leaderboard.warnings


def test_folds_count_as_seeds_do(make_run, tmp_path):
    for fold, better in enumerate((0.0, 0.02, 0.01)):
        held_out = (f"data.fold={fold}", "data.folds=3")
        make_run(*held_out, accuracy=0.7 + better)
        make_run(*held_out, "model.lr=0.3", accuracy=0.8 + better)
    (board,) = build_leaderboard(read_all(tmp_path)).boards
    assert board.validated_on == "one of 3 folds"
    assert [group.estimates["val/accuracy"].n for group in board.groups] == [3, 3]
    assert board.comparisons[0].num_pairs == 3
    assert board.comparisons[0].lead == pytest.approx(0.1)


def test_paused_runs_stand_apart_and_are_not_ranked(make_run, tmp_path):
    make_run("seed=0", accuracy=0.7)
    make_run("model.lr=0.3", state="paused", status={"epoch": 1, "metrics": {"val/accuracy": 0.9}}, folder="sweep/a")
    make_run("model.lr=0.5", state="failed", status={"epoch": 1}, folder="sweep/b")
    leaderboard = build_leaderboard(read_all(tmp_path))
    assert [len(board.groups) for board in leaderboard.boards] == [1]
    ranked, paused, unfinished = (
        as_markdown(leaderboard, "T").replace("## Not finished", "## Paused").split("## Paused")
    )
    assert "0.7000" in ranked
    assert "0.9000" not in ranked
    assert "A search stopped these" in paused
    assert "0.9000" in paused
    assert "| failed" in unfinished
    (leaderboard.paused[0].path.parent / "search.png").write_bytes(b"a picture")
    page = write_page(build_leaderboard([*leaderboard.paused, *leaderboard.unfinished]), "T", tmp_path).read_text()
    search, unfinished = page.partition("The search")[2].split("Not finished")
    assert base64.b64encode(b"a picture").decode() in search
    assert "0.9000" in search
    assert "sweep/a" not in unfinished


def test_unfinished_runs_are_listed_with_what_is_known(make_run, tmp_path):
    make_run("seed=0", accuracy=0.7)
    at = {"epoch": 4, "metrics": {"val/accuracy": 0.4321}}
    held = make_run("seed=1", state="running", status=at, folder="sweep/a")
    make_run("seed=2", state="running", status=at, folder="sweep/b")
    error = "NonFiniteLossError: nan | in epoch 5\nsecond line"
    make_run("seed=3", state="failed", status={**at, "error": error}, folder="sweep/c")
    make_run("seed=4", state="interrupted", status=at, folder="sweep/d")
    make_run("seed=4", state="failed", status={"epoch": 0}, folder="sweep/d0")
    (make_run("seed=5", folder="sweep/e") / "config.yaml").write_text("a: [")
    (make_run("seed=6", accuracy=0.5, folder="sweep/f") / "result.json").write_text("{")
    with locked(held):
        runs = read_all(tmp_path)
    assert {run.path.name: run.state for run in runs if run.state != "done"} == {
        "a": "running", "b": "killed", "c": "failed", "d": "interrupted", "d0": "failed",
        "e": "damaged", "f": "damaged",
    }  # fmt: skip
    leaderboard = build_leaderboard(runs)
    text = as_markdown(leaderboard, "T")
    assert "8 runs: 2 damaged, 1 done, 2 failed, 1 interrupted, 1 killed, 1 running." in text
    assert "sweep/e/config.yaml cannot be read: " in text
    assert "sweep/f/result.json is damaged. To train anew: rm -r " in text
    row, without_epochs = [line for line in text.splitlines() if line.startswith("| failed")]
    assert "| 0/10 |" in re.sub(" +", " ", without_epochs)
    cells = [cell.strip() for cell in row.replace("\\|", "/").strip("|").split("|")]
    assert cells[:5] == ["failed", "lenet", "3", "4/10", "0.4321"]
    assert cells[6] == "NonFiniteLossError: nan / in epoch 5"
    rows = list(csv.DictReader(runs_as_csv(leaderboard).splitlines()))
    assert [row["state"] for row in rows].count("damaged") == 2


def test_a_sweep_in_which_nothing_has_finished_is_no_error(make_run, tmp_path):
    make_run(state="failed", status={"error": "boom"})
    leaderboard = build_leaderboard(read_all(tmp_path))
    assert leaderboard.boards == []
    assert "boom" in as_markdown(leaderboard, "T")


def test_a_lock_is_seen_and_not_disturbed(tmp_path):
    assert not is_held(tmp_path / "nowhere")
    with locked(tmp_path / "run"):
        assert is_held(tmp_path / "run")
        with pytest.raises(RunFolderError, match="in use by process"), locked(tmp_path / "run"):
            pass
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    assert not is_held(tmp_path / "run")


def test_unknown_metrics_and_keys_get_the_known_ones(make_run, tmp_path):
    make_run(accuracy=0.7)
    runs = read_all(tmp_path)
    with pytest.raises(ConfigurationError, match=r"No finished run has val/f1\. --metric is one of: seconds, val/acc"):
        build_leaderboard(runs, "val/f1")
    with pytest.raises(ConfigurationError, match=r"There is no key modell\. Did you mean model"):
        build_leaderboard(runs, by=["modell"])
    with pytest.raises(ConfigurationError, match=r"There is no key data.resiz\. Did you mean data\.resize\?"):
        build_leaderboard(runs, by=["data.resiz"])


def test_the_tables_hold_every_figure_in_full(make_run, tmp_path):
    for seed, accuracy in enumerate([1 / 3, 0.5]):
        make_run("init=kaiming", f"seed={seed}", accuracy=accuracy)
        make_run("model.lr=0.30000000000000004", f"seed={seed}", accuracy=0.2 + seed * 0.01, images_per_second=7)
    leaderboard = build_leaderboard(read_all(tmp_path))
    best, other = csv.DictReader(groups_as_csv(leaderboard).splitlines())
    assert float(best["mean"]) == statistics.fmean([1 / 3, 0.5])
    assert float(best["half_width_95"]) == pytest.approx(
        12.706 * statistics.stdev([1 / 3, 0.5]) / math.sqrt(2), rel=1e-4
    )
    assert best["p"] == ""
    assert (other["runs"], other["init"], other["images_per_second"]) == (
        "lenet init=xavier model.lr=0.30000000000000004", "xavier", "7.0",
    )  # fmt: skip
    assert float(other["behind_best"]) == pytest.approx(statistics.fmean([1 / 3 - 0.2, 0.5 - 0.21]))
    assert other["pairs"] == "2"
    rows = list(csv.DictReader(runs_as_csv(leaderboard).splitlines()))
    assert sorted(float(row["val/accuracy"]) for row in rows) == [0.2, 0.2 + 0.01, 1 / 3, 0.5]
    assert {row["torch"] for row in rows} == {"2.15.0"}


def test_the_figure_stays_bounded_and_has_a_panel_for_each_swept_key(make_run, tmp_path):
    for number in range(20):
        make_run(f"model.lr={0.01 * (number + 1)}", f"init={'xavier' if number % 2 else 'kaiming'}", accuracy=0.5)
    figure = draw(build_leaderboard(read_all(tmp_path)))
    (part,) = figure.subfigs
    assert [axes.get_title() for axes in part.axes] == [
        "against cost: mean, 95 % interval",
        "over the epochs: mean, lowest to highest",
        "by init (line: mean)",
        "by model.lr",
    ]
    assert len(part.axes[1].lines) == NUM_COLORED == len(part.legends[0].legend_handles)


def test_each_table_names_its_rows_by_what_differs_in_it(make_run, tmp_path):
    for init in ("xavier", "kaiming"):
        make_run(f"init={init}", accuracy=0.7)
        make_run("model=vgg", f"init={init}", "data.holdout=5000", "trainer.max_epochs=2", accuracy=0.7)
    boards = build_leaderboard(read_all(tmp_path)).boards
    assert sorted(sorted(labels(board)) for board in boards) == [
        [f"{model} init={init}" for init in ("kaiming", "xavier")] for model in ("lenet", "vgg")
    ]
    text = as_markdown(build_leaderboard(read_all(tmp_path)), "T")
    assert "init=kaiming reached the same." in text or "init=xavier reached the same." in text


def test_folders_are_found_by_path_and_name(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("outputs/sweeps/lr/a", "outputs/sweeps/lr/b", "outputs/runs/c"):
        make_run(accuracy=0.5, folder=folder)
    assert [path.name for path in find_runs(find_folders([]))] == ["a", "b", "c"]
    assert [path.name for path in find_runs(find_folders(["lr", "outputs"]))] == ["a", "b", "c"]  # each once
    assert [path.name for path in find_runs(find_folders(["c"]))] == ["c"]
    with pytest.raises(RunFolderError, match=r"There is no folder lrr\. Did you mean lr\?"):
        find_folders(["lrr"])


def test_a_trained_run_is_reported(small, tmp_path, run_script):
    train(small("trainer.max_epochs=1"), tmp_path / "outputs" / "runs" / "one")
    finished = run_script("report.py", "one")
    assert finished.returncode == 0, finished.stderr
    assert "## Validated on the test split, only" not in finished.stdout
    result = json.loads((tmp_path / "outputs" / "runs" / "one" / "result.json").read_text())
    assert f"| 1 | lenet | 1 |       {result['metrics']['val/accuracy']:.4f} |" in finished.stdout
    assert "in outputs/report: leaderboard.md, leaderboard.csv, runs.csv, leaderboard.png" in finished.stdout


def test_a_sweep_s_report_goes_into_its_folder(make_run, tmp_path, run_script):
    for seed in (0, 1):
        make_run(f"seed={seed}", accuracy=0.7, folder=f"outputs/sweeps/s/{seed}")
    finished = run_script("report.py", "outputs/sweeps/s")
    assert finished.returncode == 0, finished.stderr
    folder = tmp_path / "outputs" / "sweeps" / "s"
    assert (folder / "leaderboard.md").read_text().startswith(finished.stdout.rpartition("\n\n")[0])
    with Image.open(folder / "leaderboard.png") as picture:
        assert picture.width == 1320
    again = run_script("report.py", "s", "--to", "elsewhere")
    assert again.stdout.rpartition("\n\n")[0] == finished.stdout.rpartition("\n\n")[0]  # its own files are no runs
    assert (tmp_path / "elsewhere" / "runs.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], f"There is no run in outputs/ yet: python {ROOT}/scripts/train.py makes one."),
        (["nothing"], "There is no folder nothing. Give a run's, a sweep's or any folder above."),
        ([""], "The name of a folder is empty: give a run's, a sweep's or any folder above."),
    ],
)
def test_a_wrong_folder_gets_an_error_of_one_line(run_script, arguments, said):
    finished = run_script("report.py", *arguments)
    assert (finished.returncode, finished.stderr.strip()) == (1, said)


def test_a_thousand_runs_take_little_more_than_reading_their_files(make_run, tmp_path):
    config = yaml.safe_load((make_run("data.holdout=5000", accuracy=0.5, test=0.5) / "config.yaml").read_text())
    result = json.loads((tmp_path / "sweep" / "0" / "result.json").read_text())
    rng = random.Random(0)
    rows = "".join(f"{epoch},1.0,1.0,0.{epoch:02}\n" for epoch in range(1, 31))
    for number in range(1000):
        path = tmp_path / "outputs" / "sweeps" / "big" / str(number)
        path.mkdir(parents=True)
        config["model"]["lr"] = config["optimizer"]["lr"] = 1 / (1 + number // 5)
        config["seed"] = config["data"]["seed"] = number % 5
        (path / "config.yaml").write_text(yaml.dump(config, Dumper=yaml.CSafeDumper))
        (path / "status.json").write_text('{"state": "done"}')
        result["metrics"]["val/accuracy"] = rng.gauss(0.7, 0.01)
        (path / "result.json").write_text(json.dumps(result))
        (path / "metrics.csv").write_text(HEADER + rows)
    before = os.times()  # of the processor: other tests may run beside this one
    for path in (tmp_path / "outputs" / "sweeps" / "big").glob("*/config.yaml"):
        yaml.load(path.read_text(), yaml.CSafeLoader)
    between = os.times()
    finished = commands.run_fresh(tmp_path, "report.py", "big")
    after = os.times()
    seconds = after.children_user + after.children_system - between.children_user - between.children_system
    assert finished.returncode == 0, finished.stderr
    assert "and 170 more, in leaderboard.md" in finished.stdout
    assert len((tmp_path / "outputs/sweeps/big/leaderboard.csv").read_text().splitlines()) == 201
    assert seconds < 8 * (between.user + between.system - before.user - before.system)  # 4 to 5, the start included
