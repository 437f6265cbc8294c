"""An application that knows nothing of ours: how near is x to 0.3? It fails, and dies, as it is told.

Its epochs sharpen the answer. It goes on with what its folder holds, and pauses as the plugins' README says.
"""

import json
import os
import time
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore

ConfigStore.instance().store(
    name="stub",
    node={
        "x": 0.0,
        "kind": "a",
        "other": 0,
        "epochs": 1,
        "seconds": 0.0,
        "hydra": {
            "output_subdir": None,
            "sweep": {"dir": "sweep", "subdir": "x${x}-${kind}-${other}"},
            "sweeper": {"params": {"x": "interval(0.0, 1.0)", "kind": "choice(a, b)"}},
        },
        "defaults": [
            "_self_",
            {"override hydra/sweeper": "optuna_search"},
            {"override hydra/hydra_logging": "none"},
            {"override hydra/job_logging": "none"},
        ],
    },
)


def note(text):
    with Path("jobs.txt").open("a") as file:
        file.write(f"{text}\n")


@hydra.main(version_base="1.3", config_path=None, config_name="stub")
def main(config):
    folder = Path(hydra.core.hydra_config.HydraConfig.get().runtime.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    started, checkpoint, pause = time.time(), folder / "checkpoint.json", folder / "pause.json"
    note(f"{config.x} {config.kind}")
    if len(Path("jobs.txt").read_text().splitlines()) == int(os.environ.get("DIES_AT", 0)):
        os._exit(9)
    if config.x > float(os.environ.get("FAILS_ABOVE", 2)):
        raise ValueError("told to")
    time.sleep(config.seconds * (20 if config.x > 0.7 else 1))
    epoch = json.loads(checkpoint.read_text())["epoch"] if checkpoint.exists() else 0
    value = -((config.x - 0.3) ** 2)
    while epoch < config.epochs:
        if pause.exists() and epoch >= json.loads(pause.read_text())["after_epoch"]:
            break
        epoch += 1
        checkpoint.write_text(json.dumps({"epoch": epoch}))
        with (folder / "epochs.txt").open("a") as file:
            file.write(f"{epoch}\n")
    if epoch == config.epochs:
        pause.unlink(missing_ok=True)
    (folder / "times.json").write_text(json.dumps([started, time.time()]))
    return value - 0.01 * (config.epochs - epoch)


if __name__ == "__main__":
    main()
