"""The presets of searches and launchers: what they compose to, and that they change no run."""

import subprocess
import sys
from importlib.util import find_spec

import hydra
import pytest
from omegaconf import OmegaConf
from support.repository import hydra_context

from convnets.configuration.rules import ConfigurationError
from convnets.configuration.shell import installation
from convnets.configuration.targets import shipped_targets
from convnets.training.command import prepare

INSTALLED = {
    "basic": True,
    "gpu_pool": True,
    "ray": find_spec("hydra_plugins.hydra_ray_launcher") is not None,
    "slurm": find_spec("hydra_plugins.hydra_submitit_launcher") is not None,
}
SEARCHES = ["random_search", "bayesian_search"]


def composed(*overrides):
    with hydra_context():
        root = hydra.compose("train", list(overrides), return_hydra_config=True)
        return root, prepare(root)[1]


@pytest.mark.parametrize("launcher", INSTALLED)
def test_a_launcher_changes_no_name_of_a_run_or_sweep(launcher):
    if not INSTALLED[launcher]:
        pytest.skip(f"needs the extra `{launcher}`: pip install -e '.[{launcher}]'")
    plain, name = composed("seed=3")
    launched, launched_name = composed("seed=3", f"launcher={launcher}")
    assert launched_name == name
    assert launched.hydra.sweep.dir == plain.hydra.sweep.dir
    assert launched.hydra.launcher._target_ != plain.hydra.launcher._target_ or launcher == "gpu_pool"


@pytest.mark.parametrize("launcher", ["ray", "slurm"])
def test_without_its_extra_a_launcher_says_what_to_install(run_script, launcher):
    if INSTALLED[launcher]:
        pytest.skip(f"the extra `{launcher}` is installed")
    finished = run_script("train.py", "-m", f"launcher={launcher}")
    assert finished.returncode == 1
    assert finished.stderr == f"launcher={launcher} needs the extra `{launcher}`: {installation(launcher)}\n"


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_chooses_on_held_out_images_and_refuses_the_test_split(search):
    root, name = composed(f"sweep={search}")
    assert root.data.holdout == 5000
    _, named_without = composed("data.holdout=5000")
    assert name.rpartition("-")[2] == named_without.rpartition("-")[2], "of the same content"
    with pytest.raises(
        ConfigurationError, match=r"data\.holdout=0 the test split would choose the hyperparameters: set"
    ):
        composed(f"sweep={search}", "data.holdout=0")


def test_the_two_searches_differ_in_how_they_draw():
    random, bayesian = (composed(f"sweep={search}")[0].hydra.sweeper for search in SEARCHES)
    assert random.params == bayesian.params
    assert random.n_jobs == random.n_trials == bayesian.n_trials == 20
    assert bayesian.n_jobs == 4
    assert (random.sampler._target_, bayesian.sampler._target_) == (
        "optuna.samplers.RandomSampler",
        "optuna.samplers.TPESampler",
    )
    assert random.sampler.seed == bayesian.sampler.seed == 0


def test_halving_asks_what_the_others_ask_and_pauses():
    halving, bayesian = (composed(f"sweep={search}")[0].hydra.sweeper for search in ("halving", "bayesian_search"))
    assert halving.params == bayesian.params
    assert (halving.n_trials, halving.sampler._target_) == (27, "optuna.samplers.RandomSampler")
    assert halving.halving == {"num_epochs": 10, "first_epoch": 1, "reduction": 3, "remove": ["checkpoints"]}
    assert bayesian.halving.num_epochs is None


def test_what_only_hydra_calls_is_not_allowed_in_a_runs_configuration():
    assert not any("optuna" in target for target in shipped_targets())


@pytest.mark.parametrize(
    ("accelerator", "cluster", "gpus", "expected"),
    [
        ("cpu", "head:6379", "0,1", None),
        ("auto", "head:6379", "", 1),
        ("gpu", "head:6379", "", 1),
        ("auto", None, "0,1", 1),
        ("auto", None, "", None),
    ],
)
def test_a_job_asks_for_a_gpu_where_it_may_have_one(monkeypatch, accelerator, cluster, gpus, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    assert OmegaConf.create([f"${{gpus_of_a_job:{accelerator},{cluster or 'null'}}}"])[0] == expected


@pytest.mark.skipif(find_spec("optuna") is None, reason="needs the extra `search`: pip install -e '.[search]'")
@pytest.mark.slow
def test_a_search_over_real_runs_selects_by_their_validation(run_script, tmp_path):
    quick = ["data=fashion_mnist_sample", "trainer=cpu", "trainer.max_epochs=1", "callbacks=none", "logger=none"]
    words = [*quick, "data.holdout=200", "data.batch_size=16", "sweep_name=s", "launcher=basic"]
    finished = run_script("train.py", "sweep=random_search", "hydra.sweeper.n_trials=3", *words)
    assert finished.returncode == 0, finished.stderr
    program = "import sys; from convnets import load_run; print(*load_run(sys.argv[1]).metrics.items())"
    best = subprocess.run(
        [sys.executable, "-c", program, "best:outputs/sweeps/s"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    reached = float(best.stdout.partition("val/accuracy', ")[2].partition(")")[0])
    assert f"the best of 3 trials reached {reached:.4f}: " in finished.stdout
    refused = run_script("train.py", "sweep=random_search", *words, "data.holdout=0", "sweep_name=refused")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "the test split would choose the hyperparameters" in refused.stderr
    assert not (tmp_path / "outputs" / "sweeps" / "refused").exists()
