"""An application that knows nothing of ours: it sleeps, notes where it was, and fails as it is told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hydra
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf


def started_at():
    """When the kernel started this process, in seconds since the epoch."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


def showing(sweep):
    """Show what came back to the sweeper."""

    def show(self, arguments):
        batches = sweep(self, arguments)
        print("returned", json.dumps([ret.return_value for batch in batches for ret in batch]))
        return batches

    return show


# Hydra's own copy of the class: it loads plugins past sys.modules.
BasicSweeper = Plugins.instance().class_name_to_class["hydra._internal.core_plugins.basic_sweeper.BasicSweeper"]
BasicSweeper.sweep = showing(BasicSweeper.sweep)


@hydra.main(version_base="1.3", config_path="stub_conf", config_name="stub")
def main(config):
    started = started_at()
    folder = Path(hydra.core.hydra_config.HydraConfig.get().runtime.output_dir)
    facts = {"pid": os.getpid(), "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "started": started}
    facts["config"] = OmegaConf.to_container(config)
    facts["environment"] = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "LOCAL_RANK", "MASTER_ADDR")}
    if config.grandchild:  # one that has left the process group, as a daemon does
        facts["grandchild"] = subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
    if config.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(folder, facts)
    (folder / "progress.json").write_text(json.dumps({"epoch": 1, "num_epochs": 2, "metrics": {"score": 0.25}}))
    time.sleep(config.seconds)
    if config.end == "raise":
        raise ValueError("told to")
    if config.end == "exit":
        print("leaving early")
        sys.stdout.flush()
        os._exit(3)
    if config.end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "done.json").write_text("{}")
    note(folder, {**facts, "ended": time.time()})
    return config.number * 1.5


def note(folder, facts):
    """Whole at any instant, for tests that wait for it."""
    beside = folder / "facts.json.partial"
    beside.write_text(json.dumps(facts))
    beside.replace(folder / "facts.json")


if __name__ == "__main__":
    main()
