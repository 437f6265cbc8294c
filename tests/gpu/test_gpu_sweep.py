"""A sweep puts several jobs on one GPU."""

import json
from pathlib import Path

from support.gpu import SAMPLE

WORDS = ("trainer.deterministic=true", "trainer.max_epochs=40", "model.activation=relu")


def test_jobs_share_a_gpu_and_learn_what_each_learns_alone(run, train, tmp_path):
    alone = train("alone", *WORDS, "seed=3")
    several = ("seed=0,1,2,3", "sweep_name=many", "hydra.launcher.jobs_per_gpu=4", "callbacks=tells_gpu")
    words = ("--config-dir", str(Path(__file__).parent / "conf"), *SAMPLE, *WORDS, *several)
    code, said = run("train.py", "-m", *words, CUDA_VISIBLE_DEVICES="0")
    assert code == 0, said
    told = [json.loads(path.read_text()) for path in (tmp_path / "outputs" / "sweeps" / "many").glob("*/gpu.json")]
    assert [one["visible"] for one in told] == ["0"] * 4
    at_once = [sum(other["started"] <= one["started"] < other["ended"] for other in told) for one in told]
    assert max(at_once) >= 2
    (same,) = (tmp_path / "outputs" / "sweeps" / "many").glob("*seed3*/weights.safetensors")
    assert same.read_bytes() == alone.bits
