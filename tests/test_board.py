import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT

from convnets import board
from convnets.board import BoardError, free_port
from convnets.training import train


def test_one_folder_is_the_log_folder_and_several_are_told_apart():
    assert board.command([Path("outputs")], 1)[3:5] == ["--logdir", "outputs"]
    several = board.command([Path("outputs/runs/a"), Path("outputs/sweeps/b")], 1)
    assert several[3:5] == ["--logdir_spec", "outputs/runs/a:outputs/runs/a,outputs/sweeps/b:outputs/sweeps/b"]


def test_a_port_that_is_taken_is_said_or_another_one_found(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BoardError, match=rf"Port {port} is in use: leave --port away"):
            free_port(port)
        monkeypatch.setattr(board, "PORT", port)
        assert free_port() not in (port, 0)


def test_the_dashboard_answers_and_stops_cleanly(small, tmp_path):
    train(small("logger=tensorboard", "trainer.max_epochs=1"), tmp_path / "outputs" / "runs" / "one")
    command = [sys.executable, str(ROOT / "scripts" / "dashboard.py"), "latest"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("TensorBoard shows outputs/runs/one at http://localhost:")
    with urllib.request.urlopen(line.split()[4] + "data/runs", timeout=20) as response:
        assert response.status == 200
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == ""


def test_without_a_run_it_says_how_to_make_one(run_script):
    finished = run_script("dashboard.py")
    assert finished.returncode == 1
    assert finished.stderr == "There is no run in outputs yet: python scripts/train.py makes one.\n"
