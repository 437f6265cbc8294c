import statistics

import pytest
from support.events import read

from convnets.results.leaderboard import build_leaderboard
from convnets.results.seed_means import in_words, write_seed_means
from convnets.runs.finding import find_runs
from convnets.runs.run import read_run

ACCURACIES = {0: 0.5, 1: 0.9, 2: 0.7}


@pytest.fixture
def sweep(make_run, tmp_path):
    for seed, accuracy in ACCURACIES.items():
        make_run(f"seed={seed}", accuracy=accuracy)
    make_run("init=kaiming", accuracy=0.6)
    return tmp_path / "sweep"


def written(sweep, to):
    return write_seed_means(build_leaderboard([read_run(path) for path in find_runs([sweep])]), to)


def test_a_group_of_seeds_has_a_run_with_its_mean_and_band(sweep, tmp_path):
    files_before = sorted(path for path in sweep.rglob("*"))
    written(sweep, tmp_path / "to")
    (path,) = written(sweep, tmp_path / "to")  # anew: nothing is there twice
    assert path == tmp_path / "to" / "seed_means" / "1 lenet init=xavier (n=3)"
    assert sorted(path for path in sweep.rglob("*")) == files_before  # a run's own folder stays as it is
    events = read(path)
    curves = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    expected = {
        "val/accuracy": statistics.fmean(ACCURACIES.values()),
        "seed_band/val/accuracy/lowest": 0.5,
        "seed_band/val/accuracy/highest": 0.9,
    }
    for tag, last in expected.items():
        assert curves[tag] == [(1, pytest.approx(0.1)), (2, pytest.approx(last))]
    assert curves.keys() == {
        tag.format(name)
        for name in ("train/loss", "val/loss", "val/accuracy")
        for tag in ("{}", "seed_band/{}/lowest", "seed_band/{}/highest")
    }
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"seed_band/val/accuracy/lowest" in layout


def test_without_a_second_seed_a_sentence_says_so(make_run, tmp_path):
    make_run(accuracy=0.7)
    assert in_words(written(tmp_path, tmp_path / "to"), []) == (
        "for TensorBoard: nothing, as no two runs differ in their seed alone."
    )
