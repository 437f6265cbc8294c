"""One training on two nodes: here, two processes that a cluster would have started."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "scripts" / "train.py")
TRAINING = ["data=fashion_mnist_sample", "trainer=ddp", "trainer.accelerator=cpu", "callbacks=none", "logger=none"]
NODES = ["trainer.devices=1", "trainer.num_nodes=2"]

pytestmark = pytest.mark.slow


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def environment(**variables):
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}


def start_by_srun(folder, *words):
    """What srun would start on two nodes."""
    port = free_port()
    common = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "77", "SLURM_NNODES": "2",
              "SLURM_NTASKS_PER_NODE": "1",
              "SLURM_NODELIST": "127.0.0.1", "SLURM_LOCALID": "0", "MASTER_PORT": port}  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, SCRIPT, *TRAINING, *NODES, *words],
            cwd=folder,
            env=environment(**common, SLURM_PROCID=str(node), SLURM_NODEID=str(node)),
        )
        for node in range(2)
    ]


def start_by_torchrun(folder, *words):
    port = free_port()
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
              "--master-addr=127.0.0.1", f"--master-port={port}"]  # fmt: skip
    return [
        subprocess.Popen(
            [*launch, f"--node-rank={node}", SCRIPT, *TRAINING, *NODES, *words], cwd=folder, env=environment()
        )
        for node in range(2)
    ]


def codes(processes):
    try:
        return [process.wait(timeout=150) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def on_one_node(tmp_path_factory):
    """The weights of two processes that Lightning started."""
    folder = tmp_path_factory.mktemp("one")
    words = [*TRAINING, "trainer.devices=2", "trainer.max_epochs=30", "run_name=run"]
    subprocess.run([sys.executable, SCRIPT, *words], cwd=folder, env=environment(), check=True, timeout=150)
    return (folder / "outputs" / "runs" / "run" / "weights.safetensors").read_bytes()


def test_torchrun_trains_to_the_bits_of_one_node_and_finds_it_done(tmp_path, on_one_node):
    words = ["trainer.max_epochs=30", "run_name=run"]
    assert codes(start_by_torchrun(tmp_path, *words)) == [0, 0]
    weights = tmp_path / "outputs" / "runs" / "run" / "weights.safetensors"
    assert weights.read_bytes() == on_one_node
    written = weights.stat().st_mtime_ns
    assert codes(start_by_torchrun(tmp_path, *words)) == [0, 0]
    assert weights.stat().st_mtime_ns == written


def test_slurm_ends_it_with_sigterm_and_the_same_command_goes_on_to_the_same_bits(tmp_path, on_one_node):
    words = ["trainer.max_epochs=30", "run_name=run", "checkpoint.every_seconds=0.2"]
    run = tmp_path / "outputs" / "runs" / "run"
    processes = start_by_srun(tmp_path, *words)
    deadline = time.monotonic() + 100
    while not (run / "checkpoints" / "last.ckpt").exists():
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            pytest.fail(f"no checkpoint, exit codes {codes(processes)}")
        time.sleep(0.05)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert codes(processes) == [128 + signal.SIGTERM, 0]
    assert not (run / "result.json").exists()
    assert codes(start_by_srun(tmp_path, *words)) == [0, 0]
    assert (run / "weights.safetensors").read_bytes() == on_one_node
