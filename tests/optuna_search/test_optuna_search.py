import fcntl
import json
import os
import random
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from support.killing import kill_tree

STUB = Path(__file__).parent / "stub.py"
SOURCE = Path(__file__).parents[2] / "src"
needs_optuna = pytest.mark.skipif(
    find_spec("optuna") is None, reason="needs the extra `search`: pip install -e '.[search]'"
)
HALVING = ("epochs=9", "hydra.sweeper.halving.num_epochs=9", "hydra.sweeper.halving.remove=[checkpoint.json]")
RANDOM = "hydra.sweeper.sampler._target_=optuna.samplers.RandomSampler"
POOL = ("hydra/launcher=gpu_pool", "hydra.launcher.cpu_slots=2", "hydra.launcher.grace_seconds=1")


class Searches:
    """Searches of the stub in one folder, and the jobs that they ran."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def start(self, *overrides, program=(str(STUB),), **environment):
        command = [sys.executable, *program, "--multirun", *overrides]
        path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=env, start_new_session=True, **pipes)

    def run(self, *overrides, **options):
        process = self.start(*overrides, **options)
        out, err = process.communicate(timeout=100)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @property
    def jobs(self):
        path = self.folder / "jobs.txt"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def trials(self):
        import optuna
        from optuna.storages.journal import JournalFileBackend

        storage = optuna.storages.JournalStorage(JournalFileBackend(str(self.folder / "sweep" / "search.journal")))
        return optuna.load_study(study_name="search", storage=storage).trials

    @property
    def outcome(self):
        """What each trial came to, and the epochs that its job went through."""
        outcome = {}
        for trial in self.trials:
            folder = self.folder / "sweep" / f"x{trial.params['x']}-{trial.params['kind']}-0"
            epochs = (folder / "epochs.txt").read_text().split()
            reached = (trial.state.name, trial.value, tuple(trial.intermediate_values.items()))
            outcome[trial.number] = (trial.params["x"], trial.params["kind"], *reached, tuple(epochs))
        return outcome


@pytest.fixture
def searches(tmp_path):
    return Searches(tmp_path / "searches")


def test_without_the_extra_one_line_says_what_to_install(searches):
    without = "import runpy, sys; sys.modules['optuna'] = None; sys.argv = sys.argv[1:]; "
    finished = searches.run(program=("-c", f"{without}runpy.run_path({str(STUB)!r}, run_name='__main__')", str(STUB)))
    assert finished.returncode == 1
    assert "-m pip install 'optuna>=5,<6'" in finished.stderr
    assert searches.jobs == []
    assert not (searches.folder / "sweep").exists()


@needs_optuna
def test_a_search_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path, searches):
    uninterrupted = Searches(tmp_path / "uninterrupted")
    words = ("hydra.sweeper.n_trials=12", "hydra.sweeper.n_jobs=2")
    assert uninterrupted.run(*words).returncode == 0
    assert len(set(uninterrupted.jobs)) == 12

    assert searches.run(*words, DIES_AT="4").returncode == 9
    journal = searches.folder / "sweep" / "search.journal"
    with journal.open("a") as file:
        file.write('{"op_code":5,"tri')  # as a power failure leaves it
    again = searches.run(*words)
    assert again.returncode == 0, again.stderr
    assert "2 of 12 trials were done before; 10 to go" in again.stdout
    # The third had ended and the fourth not when the search was cut off: neither was known yet.
    assert searches.jobs == [*uninterrupted.jobs[:4], *uninterrupted.jobs[2:]]

    once_more = searches.run(*words)
    assert "12 of 12 trials were done before; 0 to go" in once_more.stdout
    assert len(searches.jobs) == 14
    assert once_more.stdout.splitlines()[-2:] == again.stdout.splitlines()[-2:]

    more = searches.run("hydra.sweeper.n_trials=13")
    assert "12 of 13 trials were done before; 1 to go" in more.stdout
    assert searches.jobs[-1] not in searches.jobs[:-1]


@needs_optuna
@pytest.mark.parametrize("num_lines", range(4, 9))
def test_a_draw_that_was_cut_off_is_made_whole(tmp_path, searches, num_lines):
    words = ("hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1")
    assert searches.run(*words).returncode == 0
    journal = searches.folder / "sweep" / "search.journal"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:num_lines]))
    jobs = searches.jobs
    assert searches.run(*words).returncode == 0
    assert sorted({*searches.jobs}) == sorted({*jobs})
    assert [f"{trial.params['x']} {trial.params['kind']}" for trial in searches.trials] == jobs


@needs_optuna
def test_trials_that_failed_are_told_so_and_tried_again_where_that_is_asked_for(searches):
    words = ("hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3", RANDOM)
    failed = searches.run(*words, FAILS_ABOVE="0.5")
    above = [job for job in searches.jobs if float(job.split()[0]) > 0.5]
    assert len(searches.jobs) == 6
    assert 0 < len(above) < 6
    assert failed.returncode == 0, failed.stderr
    assert f"{len(above)} of 6 trials failed: " in failed.stdout
    assert sum(trial.state.name == "FAIL" for trial in searches.trials) == len(above)

    assert searches.run(*words).returncode == 0
    assert len(searches.jobs) == 6
    for attempt in (2, 3):  # twice, for what failed once more is not to be tried twice as often
        assert searches.run(*words, "hydra.sweeper.retry_failed=true", FAILS_ABOVE="0.5").returncode == 0
        assert sorted(searches.jobs[6:]) == sorted(above * (attempt - 1))
    mended = searches.run(*words, "hydra.sweeper.retry_failed=true")
    assert mended.returncode == 0, mended.stderr
    assert sorted(searches.jobs[6:]) == sorted(above * 3)

    none = searches.run("hydra.sweeper.n_trials=2", "other=1", "hydra.sweep.dir=none", FAILS_ABOVE="-1")
    assert none.returncode == 1
    assert "All 2 trials failed" in none.stderr


@needs_optuna
def test_it_refuses_another_question_and_a_second_search_at_once(searches):
    assert searches.run("hydra.sweeper.n_trials=1").returncode == 0
    other = searches.run("hydra.sweeper.n_trials=2", "other=1", "x=interval(0.1,0.2)")
    assert other.returncode == 1
    assert "sweep holds a search for something else:" in other.stderr
    assert "  hydra.sweep.subdir: x0.0-a-0 there, x0.0-a-1 now\n" in other.stderr
    assert "  x: interval(0.0, 1.0) there, interval(0.1,0.2) now\n" in other.stderr
    with (searches.folder / "sweep" / ".search.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        second = searches.run("hydra.sweeper.n_trials=2")
    assert second.returncode == 1
    assert "Another search is at work in sweep: wait for it, or search elsewhere." in second.stderr
    assert len(searches.jobs) == 1


@needs_optuna
@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "distance"), [("TPESampler", 0.03), ("RandomSampler", 0.1)])
def test_it_finds_the_maximum(searches, sampler, distance):
    finished = searches.run(
        "hydra.sweeper.n_trials=40", "kind=b", f"hydra.sweeper.sampler._target_=optuna.samplers.{sampler}"
    )
    assert finished.returncode == 0, finished.stderr
    assert all(job.endswith(" b") for job in searches.jobs)
    assert all(len(job.split()[0]) <= 7 for job in searches.jobs), "three digits"
    best = yaml.safe_load((searches.folder / "sweep" / "optimization_results.yaml").read_text())
    nearest = min((float(job.split()[0]) for job in searches.jobs), key=lambda x: abs(x - 0.3))
    assert best["best_params"] == {"x": nearest}
    assert best["best_value"] == pytest.approx(-((nearest - 0.3) ** 2))
    assert abs(nearest - 0.3) < distance


@needs_optuna
def test_trials_of_the_same_parameters_share_a_job_and_its_end(searches):
    finished = searches.run(*HALVING, "hydra.sweeper.n_trials=6", "x=choice(0.1,0.2)", "kind=a", RANDOM)
    assert finished.returncode == 0, finished.stderr
    assert sorted(searches.jobs) == ["0.1 a", "0.2 a", "0.2 a", "0.2 a"]
    worse, better = ([trial for trial in searches.trials if trial.params["x"] == x] for x in ("0.1", "0.2"))
    assert len(worse) + len(better) == 6 > len(better) > 1 < len(worse)
    assert {trial.state.name for trial in worse} == {"PRUNED"}
    assert all(trial.intermediate_values == {1: pytest.approx(-0.12)} for trial in worse)
    assert all((trial.state.name, trial.value) == ("COMPLETE", pytest.approx(-0.01)) for trial in better)


@needs_optuna
@pytest.mark.parametrize("launcher", [(), POOL], ids=["batches", "one by one"])
def test_halving_finishes_the_best_and_pauses_the_others(searches, launcher):
    words = (*HALVING, *launcher, RANDOM, "hydra.sweeper.n_trials=9", "kind=a")
    finished = searches.run(*words)
    assert finished.returncode == 0, finished.stderr
    assert (
        "at most 21 epochs, 0.26 of the full search's 81: 9 to epoch 1, 3 to epoch 3, 1 to epoch 9" in finished.stdout
    )
    assert "epochs spent: 21; the full search would have cost 81" in finished.stdout
    by_value = sorted(searches.trials, key=lambda trial: abs(trial.params["x"] - 0.3))
    assert [len(trial.intermediate_values) for trial in by_value] == [2, 2, 2, 1, 1, 1, 1, 1, 1]
    assert [trial.state.name for trial in by_value] == ["COMPLETE"] + ["PRUNED"] * 8
    for trial, epochs in zip(by_value, [9, 3, 3, 1, 1, 1, 1, 1, 1], strict=True):
        folder = searches.folder / "sweep" / f"x{trial.params['x']}-a-0"
        assert (folder / "epochs.txt").read_text().split() == [str(epoch) for epoch in range(1, epochs + 1)]
        assert (folder / "checkpoint.json").exists() == (epochs == 9)
    changed = searches.run(*words, "hydra.sweeper.n_trials=10")
    assert "halving: 9 trials, rungs after epochs 1, 3, 9 there, 10 trials" in changed.stderr


@needs_optuna
def test_halving_goes_on_where_a_trial_fails(searches):
    finished = searches.run(*HALVING, RANDOM, "hydra.sweeper.n_trials=9", "kind=a", FAILS_ABOVE="0.5")
    assert finished.returncode == 0, finished.stderr
    states = [trial.state.name for trial in searches.trials]
    assert states.count("COMPLETE") == 1
    assert states.count("FAIL") == sum(trial.params["x"] > 0.5 for trial in searches.trials) > 0


@needs_optuna
def test_no_place_waits_for_the_slowest(searches):
    assert searches.run(*POOL, RANDOM, "hydra.sweeper.n_trials=9", "kind=a", "seconds=0.3").returncode == 0
    times = {path.parent.name: json.loads(path.read_text()) for path in searches.folder.glob("sweep/*/times.json")}
    slow = [times[name] for name in times if float(name[1:].split("-")[0]) > 0.7]
    begun_meanwhile = [sum(start < other < end for other, _ in times.values()) for start, end in slow]
    assert max(begun_meanwhile) >= 2, times


@needs_optuna
@pytest.mark.slow
def test_killed_at_any_instant_a_halving_search_ends_as_if_it_had_not_been(tmp_path, searches):
    words = (*HALVING, *POOL, RANDOM, "hydra.sweeper.n_trials=9", "seconds=0.2")
    uninterrupted = Searches(tmp_path / "uninterrupted")
    started = time.monotonic()
    assert uninterrupted.run(*words).returncode == 0
    seconds = time.monotonic() - started
    draw = random.Random(0)
    for _ in range(10):
        process = searches.start(*words)
        try:
            process.communicate(timeout=draw.uniform(0.5, seconds / 2))
        except subprocess.TimeoutExpired:
            kill_tree(process)
    assert searches.run(*words).returncode == 0
    assert searches.outcome == uninterrupted.outcome
