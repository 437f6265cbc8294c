"""An application that knows nothing of ours: how near is x to 0.3? It fails, and dies, as it is told."""

import os
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore

ConfigStore.instance().store(
    name="stub",
    node={
        "x": 0.0,
        "kind": "a",
        "other": 0,
        "hydra": {
            "output_subdir": None,
            "sweep": {"dir": "sweep", "subdir": "x${x}-${kind}-${other}"},
            "sweeper": {"params": {"x": "interval(0.0, 1.0)", "kind": "choice(a, b)"}},
        },
        "defaults": ["_self_", {"override hydra/sweeper": "optuna_search"}],
    },
)


@hydra.main(version_base="1.3", config_path=None, config_name="stub")
def main(config):
    with Path("jobs.txt").open("a") as file:
        file.write(f"{config.x} {config.kind}\n")
    if len(Path("jobs.txt").read_text().splitlines()) == int(os.environ.get("DIES_AT", 0)):
        os._exit(9)
    if config.x > float(os.environ.get("FAILS_ABOVE", 2)):
        raise ValueError("told to")
    return -((config.x - 0.3) ** 2)


if __name__ == "__main__":
    main()
