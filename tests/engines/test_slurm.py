import json
import os
import signal
import stat
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from lightning.pytorch.plugins.environments import SLURMEnvironment

from convnets.configuration.rules import ConfigurationError
from convnets.training.building import build_trainer

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TRAINING = ["data=fashion_mnist_sample", "trainer=cpu", "trainer.max_epochs=40", "callbacks=none", "logger=none"]
needs_submitit = pytest.mark.skipif(
    find_spec("submitit") is None or find_spec("hydra_plugins.hydra_submitit_launcher") is None,
    reason="needs the extra `slurm`: pip install -e '.[slurm]'",
)


def test_lightning_does_not_requeue_beside_submitit(small, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "77"}.items():
        monkeypatch.setenv(name, value)
    trainer = build_trainer(small(), tmp_path)
    assert isinstance(trainer._accelerator_connector.cluster_environment, SLURMEnvironment)
    try:
        trainer._signal_connector.register_signal_handlers()
        assert (signal.getsignal(signal.SIGUSR1), signal.getsignal(signal.SIGUSR2)) == before
    finally:
        trainer._signal_connector.teardown()


def test_tasks_asked_for_in_another_way_are_refused_with_the_way_out(small, tmp_path, monkeypatch):
    for name, value in {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "77"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="Use `--ntasks-per-node=2` instead"):
        build_trainer(small(), tmp_path)


@pytest.fixture
def slurm(tmp_path):
    """The environment of a user who has SLURM's commands."""
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "srun", "scontrol", "sacct"):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "fake_slurm.py"} {name} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        "FAKE_SLURM": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }


@needs_submitit
@pytest.mark.slow
def test_a_preempted_job_is_requeued_by_submitit_and_goes_on_to_the_same_bits(slurm, tmp_path):
    train = [sys.executable, str(ROOT / "scripts" / "train.py")]
    words = ["-m", "launcher=slurm", "sweep_name=s", "seed=0,1", "checkpoint.every_seconds=0.2", *TRAINING]
    cluster_words = ["hydra.launcher.partition=short", "hydra.launcher.timeout_min=90"]
    sweep = tmp_path / "outputs" / "sweeps" / "s"
    with subprocess.Popen([*train, *words, *cluster_words], cwd=tmp_path, env=slurm) as submitted:
        deadline = time.monotonic() + 100
        while not (found := [*sweep.glob("*seed1*/checkpoints/last.ckpt")]):
            assert time.monotonic() < deadline
            assert submitted.poll() is None
            time.sleep(0.05)
        (interrupted,) = (path.parents[1] for path in found)
        os.kill(json.loads((interrupted / "status.json").read_text())["pid"], signal.SIGUSR2)
        assert submitted.wait(timeout=200) == 0
    assert (tmp_path / "requeued-77_1").exists()
    assert not (tmp_path / "requeued-77_0").exists()
    status = json.loads((interrupted / "status.json").read_text())
    assert (status["state"], status["resumed"]) == ("done", 1)

    alone = subprocess.run([*train, "run_name=alone", "seed=1", *TRAINING], cwd=tmp_path, env=slurm, check=True)
    assert alone.returncode == 0
    expected = tmp_path / "outputs" / "runs" / "alone" / "weights.safetensors"
    assert (interrupted / "weights.safetensors").read_bytes() == expected.read_bytes()

    script = (tmp_path / "script.sh").read_text().splitlines()
    folder = sweep / ".submitit"
    log = f"{folder}/%A_%a/%A_%a_0_log"
    assert [line for line in script if line.startswith("#SBATCH")] == [
        "#SBATCH --array=0-1%2",
        "#SBATCH --cpus-per-task=4",
        f"#SBATCH --error={log}.err",
        "#SBATCH --job-name=train",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={log}.out",
        "#SBATCH --partition=short",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --time=90",
        "#SBATCH --wckey=submitit",
    ]
    assert "export SLURM_KILL_BAD_EXIT=1" in script
    command = f"{sys.executable} -u -m submitit.core._submit {folder}/%j"
    assert script[-1].startswith("srun --unbuffered --output ")
    assert script[-1].endswith(command)
