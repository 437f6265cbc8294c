"""The built wheel alone, unpacked where nothing of the checkout is."""

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ("data=fashion_mnist_sample", "trainer=smoke", "callbacks=none", "logger=none", "run_name=first")

pytestmark = pytest.mark.skipif(find_spec("hatchling") is None, reason="needs hatchling: pip install hatchling")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Run Python, with the unpacked wheel, in an empty folder with a space in its name."""
    built, unpacked, here = (tmp_path_factory.mktemp(name) for name in ("built", "unpacked", "a folder"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(unpacked)
    (unpacked / "sitecustomize.py").write_text(  # an editable install names the checkout in site-packages
        "import os, sys\n"
        f"others = lambda path: path != {str(unpacked)!r} and os.path.isfile(path + '/convnets/__init__.py')\n"
        "sys.path = [path for path in sys.path if not others(path)]\n"
    )

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": str(unpacked)}
        return subprocess.run(
            [sys.executable, *words], cwd=here, env=environment, capture_output=True, text=True, timeout=120
        )

    return run, unpacked, here


def test_the_wheel_alone_trains_loads_evaluates_and_predicts(installed):
    run, unpacked, _ = installed
    where = run("-c", "import convnets.configuration.composition as c; print(c.__file__, c.CONFIG_DIR)")
    assert where.stdout.split() == [f"{unpacked}/convnets/configuration/composition.py", f"{unpacked}/convnets/conf"]
    trained = run("-m", "convnets.scripts.train", *SMALL)
    assert trained.returncode == 0, trained.stderr
    program = "import convnets; run = convnets.load_run('first'); print(type(run.classifier.network).__name__)"
    assert run("-c", program).stdout == "LeNet\n"
    evaluated = run("-m", "convnets.scripts.evaluate", "outputs/runs/first")
    assert evaluated.returncode == 0, evaluated.stderr
    picture = ROOT / ".github" / "lenet-feature-maps-coat.png"
    predicted = run("-m", "convnets.scripts.predict", "first", str(picture))
    assert predicted.returncode == 0, predicted.stderr


@pytest.mark.parametrize("launch", [("trainer=ddp", "trainer.devices=2"), ("-m", "seed=0,1")])
def test_processes_started_from_the_wheel_are_its_own(installed, launch):
    run, _, _ = installed
    words = [word for word in SMALL if not word.startswith(("run_name", "trainer="))]
    limits = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu")
    trained = run("-m", "convnets.scripts.train", *launch, *words, *limits)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "deprecated" not in trained.stdout + trained.stderr


def test_messages_name_the_commands_of_the_wheel(installed):
    run, _, _ = installed
    missing = run("-m", "convnets.scripts.dashboard", "--port", "1", "no-such-run")
    assert "Traceback" not in missing.stderr
    helped = run("-m", "convnets.scripts.train", "--help")
    assert "\n  python -m convnets.scripts.train model=vgg" in helped.stdout
