import json
import os
import subprocess
import sys
from collections import defaultdict
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest

from convnets.runs.run import Run

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
QUICK = ["data=fashion_mnist_sample", "trainer=cpu", "trainer.max_epochs=1", "callbacks=none", "logger=none"]
# What this machine has not: two GPUs.
DECLARED = ["+hydra.launcher.ray.init.num_gpus=2", "+hydra.launcher.ray.init.num_cpus=4"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("ray") is None or find_spec("hydra_plugins.hydra_ray_launcher") is None,
        reason="needs the extra `ray`: pip install -e '.[ray]'",
    ),
]


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    # Ray keeps a token in the home folder.
    return {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def run(tmp_path, environment):
    def run(program, *arguments):
        command = [sys.executable, str(program), *arguments]
        return subprocess.run(
            command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, timeout=240
        )

    return run


def facts_of(sweep):
    return [json.loads(path.read_text()) for path in sweep.glob("*/facts.json")]


def test_each_job_has_a_gpu_to_itself_and_a_process(run, tmp_path):
    finished = run(HERE / "stub.py", "-m", "launcher=ray", "sweep_name=s", "seed=0,1,2,3,4", *DECLARED,
                   "hydra.launcher.ray.remote.num_gpus=1")  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    facts = facts_of(tmp_path / "work" / "outputs" / "sweeps" / "s")
    assert len({job["pid"] for job in facts}) == 5
    on_gpu = defaultdict(list)
    for job in sorted(facts, key=lambda job: job["started"]):
        on_gpu[job["gpu"]].append(job)
    assert set(on_gpu) == {"0", "1"}
    for jobs in on_gpu.values():
        assert all(before["ended"] <= after["started"] for before, after in pairwise(jobs))


@pytest.mark.parametrize(("seed", "message"), [(13, "WorkerCrashedError: The worker died"), (14, "told to")])
def test_a_job_that_dies_is_not_run_again_and_the_sweep_says_so(run, tmp_path, seed, message):
    finished = run(HERE / "stub.py", "-m", "launcher=ray", "sweep_name=s", f"seed={seed}", *DECLARED)
    assert finished.returncode == 1
    assert message in finished.stderr
    (attempts,) = (tmp_path / "work" / "outputs" / "sweeps" / "s").glob("*/attempts.txt")
    assert attempts.read_text() == "x"


def test_a_cluster_started_elsewhere_works_in_the_folder_that_the_user_is_in(run, tmp_path, environment):
    command = [sys.executable, str(HERE / "cluster.py")]
    with subprocess.Popen(command, cwd=tmp_path / "elsewhere", env=environment, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cluster:  # fmt: skip
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        try:
            address = next(line.split()[1] for line in cluster.stdout if line.startswith("address"))
            words = ["-m", "launcher=ray", f"hydra.launcher.ray.init.address={address}", "sweep_name=s"]
            finished = run(HERE / "stub.py", *words, "seed=0,1,2,3")
            assert finished.returncode == 0, finished.stderr
            facts = facts_of(tmp_path / "work" / "outputs" / "sweeps" / "s")
            assert len(facts) == 4
            assert len({job["node"] for job in facts}) == 2
        finally:
            cluster.stdin.close()
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_job_trains_to_the_same_bits_as_without(run, tmp_path):
    alone = run(ROOT / "scripts" / "train.py", *QUICK, "seed=1", "run_name=alone")
    assert alone.returncode == 0, alone.stderr
    words = ["-m", "launcher=ray", "sweep_name=s", "seed=0,1", *QUICK, "+hydra.launcher.ray.init.num_cpus=2"]
    for _ in range(2):
        finished = run(ROOT / "scripts" / "train.py", *words)
        assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("has been trained already") == 2
    outputs = tmp_path / "work" / "outputs"
    (folder,) = (outputs / "sweeps" / "s").glob("*seed1*")
    assert (folder / "weights.safetensors").read_bytes() == (
        outputs / "runs" / "alone" / "weights.safetensors"
    ).read_bytes()
    assert Run(folder).status["state"] == "done"
