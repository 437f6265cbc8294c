import fcntl
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

STUB = Path(__file__).parent / "stub.py"
SOURCE = Path(__file__).parents[2] / "src"
needs_optuna = pytest.mark.skipif(
    find_spec("optuna") is None or find_spec("hydra_plugins.hydra_optuna_sweeper") is None,
    reason="needs the extra `search`: pip install -e '.[search]'",
)


class Searches:
    """Searches of the stub in one folder, and the jobs that they ran."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def run(self, *overrides, program=(str(STUB),), **environment):
        command = [sys.executable, *program, "--multirun", *overrides]
        path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path, **environment}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=100)

    @property
    def jobs(self):
        path = self.folder / "jobs.txt"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def searches(tmp_path):
    return Searches(tmp_path / "searches")


def test_without_the_extra_one_line_says_what_to_install(searches):
    without = "import runpy, sys; sys.modules['optuna'] = None; sys.argv = sys.argv[1:]; "
    finished = searches.run(program=("-c", f"{without}runpy.run_path({str(STUB)!r}, run_name='__main__')", str(STUB)))
    assert finished.returncode == 1
    assert "alembic==1.13.3" in finished.stderr
    assert searches.jobs == []


@needs_optuna
@pytest.mark.slow
def test_a_search_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path, searches):
    uninterrupted = Searches(tmp_path / "uninterrupted")
    words = ("hydra.sweeper.n_trials=7", "hydra.sweeper.n_jobs=2")
    assert uninterrupted.run(*words).returncode == 0
    assert len(set(uninterrupted.jobs)) == 7

    assert searches.run(*words, DIES_AT="4").returncode == 9
    again = searches.run(*words)
    assert again.returncode == 0, again.stderr
    assert "2 of 7 trials were done before; 5 to go" in again.stdout
    # The third had ended and the fourth not when the search was cut off: neither was known yet.
    assert searches.jobs == [*uninterrupted.jobs[:4], *uninterrupted.jobs[2:]]

    once_more = searches.run(*words)
    assert "7 of 7 trials were done before; 0 to go" in once_more.stdout
    assert len(searches.jobs) == 9
    assert once_more.stdout.splitlines()[-2:] == again.stdout.splitlines()[-2:]

    more = searches.run("hydra.sweeper.n_trials=8")
    assert "7 of 8 trials were done before; 1 to go" in more.stdout
    assert searches.jobs[-1] not in searches.jobs[:-1]


@needs_optuna
@pytest.mark.slow
def test_trials_that_failed_are_tried_again_and_others_go_on(searches):
    words = ("hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3")
    failed = searches.run(*words, FAILS_ABOVE="0.5")
    above = [job for job in searches.jobs if float(job.split()[0]) > 0.5]
    assert len(searches.jobs) == 6
    assert 0 < len(above) < 6
    assert failed.returncode == 1
    assert f"{len(above)} of 6 trials failed. The same command tries them again." in failed.stderr

    for attempt in (2, 3):  # twice, for what failed once more is not to be tried twice as often
        assert searches.run(*words, FAILS_ABOVE="0.5").returncode == 1
        assert sorted(searches.jobs[6:]) == sorted(above * (attempt - 1))

    mended = searches.run(*words)
    assert mended.returncode == 0, mended.stderr
    assert sorted(searches.jobs[6:]) == sorted(above * 3)


@needs_optuna
@pytest.mark.slow
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
