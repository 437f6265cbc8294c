import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from conftest import ROOT

from convnets import board
from convnets.training import train


def test_one_folder_is_the_log_folder_and_several_are_told_apart():
    assert board.command([Path("outputs")])[3:5] == ["--logdir", "outputs"]
    several = board.command([Path("outputs/runs/a"), Path("outputs/sweeps/b")])
    assert several[3:5] == ["--logdir_spec", "outputs/runs/a:outputs/runs/a,outputs/sweeps/b:outputs/sweeps/b"]


def test_the_dashboard_answers_says_when_its_port_is_taken_and_stops_cleanly(small, tmp_path):
    train(small("logger=tensorboard", "trainer.max_epochs=1"), tmp_path / "outputs" / "runs" / "one")
    command = [sys.executable, str(ROOT / "scripts" / "dashboard.py"), "latest"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("TensorBoard shows outputs/runs/one at http://localhost:")
    with urllib.request.urlopen(line.split()[4] + "data/runs", timeout=20) as response:
        assert response.status == 200
    taken = line.split()[4].rstrip("/").rpartition(":")[2]
    second = subprocess.run([*command, "--port", taken], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (second.returncode, second.stderr) == (1, f"Port {taken} is in use: leave --port away.\n")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == ""


def test_of_many_runs_it_says_how_they_are_shown(tmp_path):
    for number in range(41):
        folder = tmp_path / "outputs" / "runs" / f"run{number}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    command = [sys.executable, str(ROOT / "scripts" / "dashboard.py")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    assert process.stdout.readline() == (
        "Of more than 40 runs, here 41, Scalars and Custom Scalars show none at first: "
        "filter the runs on the left, or press TOGGLE ALL RUNS.\n"
    )
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_without_a_run_it_says_how_to_make_one(run_script):
    finished = run_script("dashboard.py")
    assert finished.returncode == 1
    assert finished.stderr == f"There is no run in outputs yet: python {ROOT}/scripts/train.py makes one.\n"
