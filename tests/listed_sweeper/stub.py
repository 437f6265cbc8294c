"""An application that knows nothing of ours: it notes what it was given."""

from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore

QUIET = [{"override hydra/hydra_logging": "none"}, {"override hydra/job_logging": "none"}]
LISTED = {"override hydra/sweeper": "listed"}
HYDRA = {"output_subdir": None, "sweep": {"dir": "sweep", "subdir": "${hydra.job.num}"}}
NODE = {"a": {"x": 0}, "y": None, "z": 0, "hydra": HYDRA, "defaults": ["_self_", LISTED, *QUIET]}
ConfigStore.instance().store(name="stub", node=NODE)


@hydra.main(version_base="1.3", config_path=None, config_name="stub")
def main(config):
    with Path("jobs.txt").open("a") as file:
        file.write(f"{config.a.x} {config.y} {config.z}\n")


if __name__ == "__main__":
    main()
