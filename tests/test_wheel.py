"""The built wheel alone, unpacked where nothing of the checkout is."""

import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = (
    *("data=fashion_mnist_sample", "callbacks=none", "logger=none"),
    *("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.accelerator=cpu"),
)

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


AFTER_TRAINING = """
import runpy, sys
import convnets, convnets.configuration.composition as composition

print(composition.__file__, composition.CONFIG_DIR)
run = "outputs/sweeps/s/first"
print(type(convnets.load_run(run).classifier.network).__name__)
for name, *words in (["evaluate", run], ["predict", run, sys.argv[1]]):
    sys.argv = [name, *words]
    try:
        runpy.run_module(f"convnets.scripts.{name}", run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
print("predicted")
"""


def test_the_wheel_alone_trains_loads_evaluates_and_predicts(installed):
    """A sweep of one job in two processes: the job and its second rank are started from the wheel as well."""
    run, unpacked, here = installed
    launch = ("-m", "sweep_name=s", "run_name=first", "trainer=ddp", "trainer.devices=2")
    trained = run("-m", "convnets.scripts.train", *launch, *SMALL)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    log = (here / "outputs" / "sweeps" / "s" / "logs" / "first.log").read_text()
    assert "deprecated" not in trained.stdout + trained.stderr + log
    used = run("-c", AFTER_TRAINING, str(ROOT / ".github" / "lenet-feature-maps-coat.png"))
    assert used.returncode == 0, used.stderr
    where, network, *_, last = used.stdout.splitlines()
    assert where.split() == [f"{unpacked}/convnets/configuration/composition.py", f"{unpacked}/convnets/conf"]
    assert (network, last) == ("LeNet", "predicted")


def test_messages_name_the_commands_of_the_wheel(installed):
    run, _, _ = installed
    missing = run("-m", "convnets.scripts.dashboard", "--port", "1", "no-such-run")
    assert "Traceback" not in missing.stderr
    helped = run("-m", "convnets.scripts.train", "--help")
    assert "\n  python -m convnets.scripts.train model=vgg" in helped.stdout
