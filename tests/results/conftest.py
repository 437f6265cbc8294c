import itertools
import json

import pytest
from omegaconf import OmegaConf

VERSIONS = {"python": "3.11.7", "torch": "2.15.0"}
HEADER = "epoch,train/loss,val/loss,val/accuracy\n"


@pytest.fixture
def make_run(compose, tmp_path):
    """Write the folder of a run as training leaves it: the composed configuration, and the result asked for."""
    number = itertools.count()

    def make_run(*overrides, accuracy=None, test=None, state="done", seconds=30.0, folder=None, status=(), **result):
        path = tmp_path / (folder or f"sweep/{next(number)}")
        path.mkdir(parents=True)
        config = compose(*overrides)
        OmegaConf.save(config, path / "config.yaml")
        told = {"state": state, "epoch": 10, **dict(status)}
        (path / "status.json").write_text(json.dumps(told))
        if accuracy is not None:
            (path / "metrics.csv").write_text(f"{HEADER}1,2.0,2.1,0.1\n2,1.0,1.1,{accuracy}\n")
            metrics = {"val/accuracy": accuracy, "val/loss": 1 - accuracy}
            metrics |= {} if test is None else {"test/accuracy": test}
            protocol = "holdout" if config.data.holdout else "test split"
            told = {"metrics": metrics, "epochs": 10, "validated_on": protocol, "seconds": seconds, "device": "a GPU"}
            told |= {"images_per_second": 600_000 / seconds, "versions": VERSIONS, "git_commit": "abc", **result}
            (path / "result.json").write_text(json.dumps(told))
            (path / "weights.safetensors").write_bytes(b"weights")
        return path

    return make_run
