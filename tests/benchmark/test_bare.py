import subprocess
import sys

import pytest
import torch
from support.repository import ROOT

from convnets.benchmark.bare import DATA_DIRS, RECIPES, read_split, to_input
from convnets.data import FashionMNISTSampleDataModule
from convnets.data.preprocessing import to_network_input
from convnets.training.building import build_classifier, build_datamodule

SAMPLE_DIR = DATA_DIRS["fashion_mnist_sample"]


@pytest.mark.parametrize("model", RECIPES)
def test_its_recipes_are_those_of_the_configuration(compose, model):
    config = compose(f"model={model}", "data=fashion_mnist_sample")
    make, size, lr = RECIPES[model]
    assert (size, lr) == (config.data.resize, config.model.lr)
    with torch.device("meta"):
        assert str(make()) == str(build_classifier(config, build_datamodule(config)).network)


def test_its_images_are_those_of_the_datamodule():
    datamodule = FashionMNISTSampleDataModule()
    datamodule.setup()
    for split in ("train", "val"):
        images, labels = read_split(SAMPLE_DIR, split)
        assert torch.equal(images, datamodule.splits[split].stored)
        assert torch.equal(labels, datamodule.splits[split].labels)
    for size in (28, 96):
        assert torch.equal(to_input(images[:9], size), to_network_input(images[:9], size))


def test_a_folder_without_the_files_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"There is no .*t10k-images-idx3-ubyte, raw or \.gz: .* with --data-dir"):
        read_split(tmp_path, "val")


PROGRAM = """
import importlib.abc, runpy, sys

class TorchAlone(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name.split(".")[0] in LACKING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

LACKING = {"hydra", "omegaconf", "yaml", "lightning", "torchmetrics", "torchvision", "matplotlib", "PIL"}
sys.meta_path.insert(0, TorchAlone())
sys.argv = ["benchmark.py", "--help"]
from convnets.benchmark import bare, contenders, suite
from convnets.benchmark.measuring import Marks, Task
import time
sample = Task("bare", "lenet", data="fashion_mnist_sample", num_steps=4, num_warm_up=2, num_val_batches=1)
marks = Marks(sample, time.monotonic())
contenders.CONTENDERS["bare"](marks.task, marks)
print(*marks.figures())
runpy.run_path(SCRIPT, run_name="__main__")
"""


def test_torch_alone_is_enough_for_it():
    program = PROGRAM.replace("SCRIPT", repr(str(ROOT / "scripts" / "benchmark.py")))
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("images_per_second import_seconds first_step_seconds peak_mib\nusage: ")
