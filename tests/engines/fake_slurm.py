"""What the tests call sbatch, srun, scontrol and sacct: runs an array's tasks on this machine.

It checks no option. It stands in for a cluster as far as: tasks have SLURM's variables, srun writes the logs, and a
task that `scontrol requeue` was called for is started again when it has ended.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(os.environ["FAKE_SLURM"])


def sbatch(script):
    (HERE / "script.sh").write_text(Path(script).read_text())
    last = re.search(r"--array=0-(\d+)", Path(script).read_text())
    for task in range(int(last[1]) + 1 if last else 1):
        of_array = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": str(task)} if last else {}
        ids = {"SLURM_JOB_ID": str(77 + task), "SLURM_JOB_NAME": "train", "SLURM_JOB_NODELIST": "localhost"}
        one_task = {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NNODES": "1"}
        environment = {**os.environ, **ids, **one_task, **of_array}
        with (HERE / f"slurmd-{task}.log").open("w") as log:
            subprocess.Popen([sys.executable, __file__, "slurmd", script], env=environment, stdout=log, stderr=log)
    print("Submitted batch job 77")


def slurmd(script):
    name = "77_" + os.environ["SLURM_ARRAY_TASK_ID"] if "SLURM_ARRAY_TASK_ID" in os.environ else "77"
    while True:
        subprocess.run(["bash", script], check=False)
        if not (HERE / f"requeue-{name}").exists():
            break
        (HERE / f"requeue-{name}").rename(HERE / f"requeued-{name}")


def srun(*words):
    assert (words[1], words[3]) == ("--output", "--error")
    names = {"%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID", "%j": "SLURM_JOB_ID", "%t": "SLURM_PROCID"}
    of_task = {**os.environ, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}

    def opened(path):
        for pattern, name in names.items():
            path = path.replace(pattern, of_task.get(name, ""))
        return Path(path).open("a")

    with opened(words[2]) as out, opened(words[4]) as error:
        sys.exit(subprocess.run(words[5:], env=of_task, stdout=out, stderr=error, check=False).returncode)


def scontrol(requeue, name):
    assert requeue == "requeue"
    (HERE / f"requeue-{name}").touch()


def sacct(*_):
    print("JobID|State|NodeList")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
