import logging
import re

import pytest

from convnets.callbacks import TimeEstimate
from convnets.text import duration, folded
from convnets.training.train import train


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.21, "4.2 s"),
        (59.94, "59.9 s"),
        (60, "1 min 00 s"),
        (200.4, "3 min 20 s"),
        (18_420, "5 h 07 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_duration_reads_as_a_person_says_it(seconds, text):
    assert duration(seconds) == text


def test_a_line_an_epoch(small, tmp_path, capsys):
    train(small("callbacks=default"), tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    assert re.match(r"epoch  2/2  loss \d\.\d+ \(val \d\.\d+\)  accuracy 0\.\d+ \(val 0\.\d+\)  \d+\.\d s$", lines[1])


EPOCH = "epoch 100/100  loss 2.303 (val 12.303)  accuracy 0.100 (val 0.100)  3 min 20 s"


def test_an_epoch_line_of_the_longest_words_fits_80_columns():
    assert folded(EPOCH, 80) == EPOCH
    assert folded(EPOCH, 60).splitlines() == [
        "epoch 100/100  loss 2.303 (val 12.303)",
        "  accuracy 0.100 (val 0.100)  3 min 20 s",
    ]


@pytest.mark.parametrize("width", [20, 60, 80, 1000])
def test_folding_keeps_words_paths_and_commands_whole(width):
    path = "outputs/runs/lenet-" + "x" * 80
    text = (
        f"  run folder     {path}\nSome words, {'and so on ' * 20}\n  dashboard      python scripts/dashboard.py {path}"
    )
    lines = folded(text, width).splitlines()
    assert " ".join(folded(text, width).split()) == " ".join(text.split())
    assert lines[-1] == f"  dashboard      python scripts/dashboard.py {path}"
    assert all(len(line) <= width or path in line for line in lines)


@pytest.mark.parametrize("columns", [60, 80])
def test_no_line_of_a_training_is_longer_than_the_terminal_is_wide(small, tmp_path, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    run_dir = tmp_path / ("lenet-fashion_mnist_sample-" + "wide" * 15)
    train(small("callbacks=default", "callbacks.time_estimate.long_seconds=0", "data.holdout=100"), run_dir)
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if len(line) > columns and run_dir.name not in line] == []
    joined = " ".join(said.split())
    assert "lenet (61,706 parameters) on a sample of Fashion-MNIST at 28 pixels: 900 training images" in joined
    assert " ".join((run_dir / "train.log").read_text().split()) in joined  # which is not folded


@pytest.mark.parametrize("several", [1, 5, 25])
def test_a_long_run_says_how_long_it_takes_and_what_makes_it_shorter(small, tmp_path, caplog, several):
    caplog.set_level(logging.INFO)
    epochs = 2 if several == 25 else 1  # of one execution each
    many = ("trainer.limit_train_batches=25", "data.batch_size=40", f"trainer.max_epochs={epochs}")
    many += (f"steps_per_execution={several}",)
    train(small("callbacks=default", "callbacks.time_estimate.long_seconds=0", *many), tmp_path)
    said = [message for message in caplog.messages if message.startswith("At this pace")]
    assert len(said) == 1
    assert re.match(r"At this pace the training takes about \d+\.\d s\. What makes it shorter: a GPU, ", said[0])
    assert "data.resize" in said[0]


def test_a_short_run_is_not_told_about(small, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(small("callbacks=default", "trainer.limit_train_batches=25", "data.batch_size=40"), tmp_path)
    assert not [message for message in caplog.messages if message.startswith("At this pace")]
    assert TimeEstimate().long_seconds > 60
