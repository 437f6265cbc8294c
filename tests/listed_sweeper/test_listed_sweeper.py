import os
import subprocess
import sys
from pathlib import Path

STUB = Path(__file__).parent / "stub.py"
SOURCE = Path(__file__).parents[2] / "src"


def swept(tmp_path, *words):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(STUB), "--multirun", *words]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    jobs = tmp_path / "jobs.txt"
    return done, jobs.read_text().splitlines() if jobs.exists() else []


def test_values_that_go_together_multiply_with_a_grid(tmp_path):
    done, jobs = swept(tmp_path, "hydra.sweeper.together=[{a.x:[1,2,3],y:[[5,6],null,true]}]", "z=7,8")
    assert done.returncode == 0, done.stderr
    assert jobs == [f"{pair} {z}" for z in (7, 8) for pair in ("1 [5, 6]", "2 None", "3 True")]


def test_whole_override_sets_are_listed(tmp_path):
    done, jobs = swept(tmp_path, 'hydra.sweeper.listed=["a.x=1 y=\'[1, 2]\'", ["z=3", "y=b"]]', "+seed=0")
    assert done.returncode == 0, done.stderr
    assert jobs == ["1 [1, 2] 0", "0 b 3"]


def test_lists_of_different_lengths_are_refused(tmp_path):
    done, jobs = swept(tmp_path, "hydra.sweeper.together=[{a.x:[1,2],y:[1]}]")
    assert done.returncode == 1
    assert "Values that go together need lists of one length, got {'a.x': 2, 'y': 1}." in done.stderr
    assert jobs == []


def test_what_cannot_be_counted_is_refused(tmp_path):
    done, jobs = swept(tmp_path, "z=interval(0,1)")
    assert "z=interval(0,1): hydra/sweeper=listed takes values one can count." in done.stderr
    assert jobs == []
