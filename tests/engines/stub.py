"""Our configuration with another task: it notes where it runs, and dies as it is told."""

import json
import os
import sys
import time

from convnets.training.command import main


@main
def note(config, run_dir):
    import ray

    with (run_dir / "attempts.txt").open("a") as file:
        file.write("x")
    if config.seed == 13:
        sys.stdout.flush()
        os._exit(1)
    if config.seed == 14:
        raise ValueError("told to")
    started = time.time()
    time.sleep(2)
    facts = {"gpu": os.environ["CUDA_VISIBLE_DEVICES"], "pid": os.getpid(), "started": started, "ended": time.time()}
    facts["node"] = ray.get_runtime_context().get_node_id()
    (run_dir / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    note()
