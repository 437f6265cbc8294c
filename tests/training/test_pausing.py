"""A training that is asked to pause after an epoch, and goes on to the same bits."""

import json
import os
import random
import subprocess
import sys
import time

import pytest
from support.breaking import KEPT, everything, rows_of
from support.killing import kill_tree
from support.repository import ROOT

from convnets.callbacks import PAUSE_FILE
from convnets.results.trained_run import TrainedRun as Run
from convnets.training.train import train


def pause_after(folder, epoch):
    folder.mkdir(exist_ok=True)
    (folder / PAUSE_FILE).write_text(json.dumps({"after_epoch": epoch}))


@pytest.mark.parametrize("way", [(), ("schedule=cosine", "data.folds=10", "averaging=ema", "optimizer=adamw")])
def test_a_paused_run_goes_on_to_the_same_bits(small, tmp_path, way):
    config = small("logger=tensorboard", KEPT, "trainer.max_epochs=3", *way)
    uninterrupted = train(config, tmp_path / "whole")
    paused = tmp_path / "paused"
    for epoch in (1, 2, 2):  # the last time there is nothing to do
        pause_after(paused, epoch)
        reached = train(config, paused)["metrics"]
        run = Run(paused)
        assert (run.state, run.epoch, run.result) == ("paused", epoch, {})
        accuracies = [row["val/accuracy"] for row in run.history]
        assert len(accuracies) == epoch
        assert reached["val/accuracy"] == pytest.approx(max(accuracies) if way else accuracies[-1])
    (paused / PAUSE_FILE).unlink()
    assert train(config, paused)["metrics"] == uninterrupted["metrics"]
    assert everything(paused) == everything(tmp_path / "whole")


def test_a_run_that_ends_at_the_epoch_is_not_paused(small, tmp_path):
    config = small("trainer.max_epochs=2")
    pause_after(tmp_path / "run", 2)
    train(config, tmp_path / "run")
    assert Run(tmp_path / "run").state == "done"
    assert not (tmp_path / "run" / PAUSE_FILE).exists(), "which tells a search that it was no pause"


SEARCH = (
    *("sweep=halving", "sweep_name=search", "data=fashion_mnist_sample", "data.holdout=200", "model.activation=relu"),
    *("trainer=cpu", "trainer.max_epochs=9", "callbacks=none", "logger=none", "hydra.launcher.cpu_slots=2"),
    *("hydra.sweeper.n_trials=9", "model.lr=tag(log,interval(0.01,1e5))", "optimizer=sgd", "schedule=constant"),
    "init=xavier",
)


def start_search(folder):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *SEARCH]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def outcome(folder):
    """What became of each trial, by the study and by what lies in its folder."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    sweep = folder / "outputs" / "sweeps" / "search"
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(sweep / "search.journal")))
    trials = optuna.load_study(study_name="search", storage=storage).trials
    told = [(trial.params, trial.state.name, trial.value, trial.intermediate_values) for trial in trials]
    runs = {path.parent.name: Run(path.parent) for path in sweep.glob("*/config.yaml")}
    left = {
        name: (
            run.state,
            None if run.state == "failed" else rows_of(run.path),
            sorted(path.name for path in run.path.glob("checkpoints/*")),
        )
        for name, run in runs.items()
    }
    weights = {name: (run.path / "weights.safetensors").read_bytes() for name, run in runs.items() if run.result}
    return told, left, weights


@pytest.mark.slow
def test_killed_at_any_instant_a_search_ends_with_the_same_bits(tmp_path):
    started = time.monotonic()
    out, _ = start_search(tmp_path / "whole").communicate()
    seconds = time.monotonic() - started
    told, left, weights = whole = outcome(tmp_path / "whole")
    states = [state for _, state, _, _ in told]
    assert (len(states), states.count("COMPLETE"), len(weights)) == (9, 1, 1), out
    assert 0 < states.count("FAIL") < 8, "high rates make the loss infinite"
    assert not any(checkpoints for state, _, checkpoints in left.values() if state in ("paused", "done"))
    draw = random.Random(int(os.environ.get("KILLS_SEED", 0)))
    num_killed = num_searches = 0
    while num_killed < 10:
        folder = tmp_path / f"killed{num_searches}"
        while True:
            process = start_search(folder)
            try:
                process.communicate(timeout=draw.uniform(1, seconds / 2))
                break
            except subprocess.TimeoutExpired:
                kill_tree(process)
                num_killed += 1
        assert process.returncode == 0
        assert outcome(folder) == whole
        num_searches += 1
