"""The mechanisms that make a training fast are in place; the benchmark, not these tests, measures the time."""

from collections import Counter
from pathlib import Path

import lightning
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from support import commands
from support.watching import Steps, Watched
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.tensorboard import SummaryWriter

from convnets.configuration.rules import ConfigurationError
from convnets.data import FashionMNISTSampleDataModule
from convnets.data.augmentation import AUGMENTATIONS, Draws
from convnets.data.preprocessing import to_network_input
from convnets.data.sampling import ImageBatches
from convnets.runs.run import Run
from convnets.training.building import STEP_HOOKS, build_classifier, build_datamodule, build_trainer
from convnets.training.train import train

EVERYTHING_ON = ("data=fashion_mnist_sample", "trainer=cpu", "trainer.max_epochs=2", "data.batch_size=64")


@pytest.mark.parametrize("several", [1, 4])
def test_no_step_waits_for_the_device_and_no_float_copy_of_the_data_is_made(compose, tmp_path, several):
    watched = Watched()
    small = ("data.resize=56", "data.batch_size=16", "callbacks.throughput=null", "trainer.limit_train_batches=12")
    with watched:
        train(
            compose(*EVERYTHING_ON, *small, f"steps_per_execution={several}"),
            tmp_path / "run",
            [Steps(watched)],
        )
    assert watched.waits["within an epoch"] == 0
    assert watched.waits[None] > 0  # at an epoch's end the metrics are read, so Watched does count
    assert watched.largest < 1000 * 28 * 28


IN_A_RANK = """
import sys
from pathlib import Path

import torch

sys.path.insert(0, sys.argv[1])
from support.watching import Steps, Watched
from convnets.runs.run import Run
from convnets.training.train import train

watched = Watched()


def counted(name):
    def count(*args, **kwargs):
        watched.waits[watched.step] += 1
        return original(*args, **kwargs)

    original = getattr(torch.distributed, name)
    setattr(torch.distributed, name, count)


for name in ("all_reduce", "all_gather", "barrier", "broadcast"):
    counted(name)
with watched:
    train(Run(Path("stored")).config, Path("run"), [Steps(watched)])
Path(f"waits-{watched.waits['within an epoch']}-of-{len(watched.waits)}").touch()
"""


def test_ranks_wait_for_nothing_but_the_gradients(compose, tmp_path):
    """Over nine steps: after ten they agree on signals."""
    on_two_ranks = (
        "trainer.strategy=ddp",
        "trainer.devices=2",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=9",
    )
    (tmp_path / "stored").mkdir()
    Run(tmp_path / "stored").save_config(compose(*EVERYTHING_ON, *on_two_ranks, "callbacks=none", "logger=none"))
    (tmp_path / "rank.py").write_text(IN_A_RANK)
    process = commands.Process(tmp_path, commands.as_main, "rank.py", str(Path(__file__).parents[1]))
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    (waits,) = tmp_path.glob("waits-*")
    assert waits.name == "waits-0-of-1"


@pytest.mark.parametrize("size", [28, 56])
def test_a_batch_travels_as_bytes_of_28_pixels(compose, tmp_path, monkeypatch, size):
    travelled = []

    def note(self, batch, device, dataloader_idx):
        travelled.append(sum(part.nbytes for part in batch))
        return batch

    monkeypatch.setattr(FashionMNISTSampleDataModule, "transfer_batch_to_device", note)
    small = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "callbacks=none", f"data.resize={size}")
    train(compose(*EVERYTHING_ON, *small), tmp_path / "run")
    assert travelled[:2] == [64 * (28 * 28 + 8)] * 2


def test_logging_goes_by_the_epoch_not_by_the_step(compose, tmp_path, monkeypatch):
    calls = Counter()

    def counted(owner, name):
        original = getattr(owner, name)

        def count(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, count)

    counted(SummaryWriter, "add_scalar")
    counted(lightning.LightningModule, "log")
    seen = []
    for steps in (2, 9):
        calls.clear()
        limits = ("trainer.max_epochs=1", f"trainer.limit_train_batches={steps}")
        train(compose(*EVERYTHING_ON, *limits), tmp_path / f"{steps}")
        seen.append(dict(calls))
    assert seen[0] == seen[1]
    assert seen[0]["add_scalar"] > 0


def test_hooks_of_a_step_that_do_nothing_are_not_callable(compose, tmp_path):
    trainer = build_trainer(compose(*EVERYTHING_ON), tmp_path)
    ours = [callback for callback in trainer.callbacks if type(callback).__module__.startswith("convnets.")]
    assert {type(callback).__name__ for callback in ours} >= {"Checkpoints", "Dashboard", "History", "Throughput"}
    for callback in ours:
        for name in STEP_HOOKS:
            is_ours = getattr(type(callback), name) is not getattr(Callback, name)
            assert callable(getattr(callback, name)) == is_ours, (callback, name)


def test_images_lie_on_a_gpu_that_has_room(monkeypatch):
    datamodule = FashionMNISTSampleDataModule()
    datamodule.setup()
    gpu = torch.device("cuda", 0)
    moved = {}
    monkeypatch.setattr(ImageBatches, "to", lambda self, device: moved.setdefault(id(self), ("moved", device)))
    train_bytes = datamodule.splits["train"].stored.nbytes
    for free, expected in ((4 * train_bytes - 1, datamodule.splits["train"]), (4 * train_bytes, ("moved", gpu))):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**12))
        assert datamodule._resident_on(gpu, "train") is expected or datamodule._resident_on(gpu, "train") == expected
    assert datamodule._resident_on(torch.device("cpu"), "train") is datamodule.splits["train"]
    kept = FashionMNISTSampleDataModule(device="cpu")
    kept.setup()
    assert kept._resident_on(gpu, "train") is kept.splits["train"]


def test_compiling_takes_the_training_step_and_changes_no_bit_that_the_backend_does_not(small, tmp_path, monkeypatch):
    compiled = []
    compile = torch.compile

    def eagerly(model, **options):
        compiled.append(options.pop("mode"))
        return compile(model, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", eagerly)
    ways = ("false", "true", "reduce-overhead")
    results = [train(small(f"compile={way}"), tmp_path / way)["metrics"] for way in ways]
    assert compiled == [None, "reduce-overhead"]
    assert results[0] == results[1] == results[2]
    weights = [(tmp_path / way / "weights.safetensors").read_bytes() for way in ways]
    assert weights[0] == weights[1] == weights[2]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adamw"])
def test_a_fused_optimizer_takes_the_same_steps_but_for_rounding(small, tmp_path, optimizer):
    for fused in ("true", "null"):
        train(small(f"optimizer={optimizer}", f"optimizer.fused={fused}"), tmp_path / fused)
    weights = [safetensors.torch.load_file(tmp_path / fused / "weights.safetensors") for fused in ("true", "null")]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-5)
    config = small(f"optimizer={optimizer}", "optimizer.fused=true")
    classifier = build_classifier(config, build_datamodule(config))
    assert classifier.optimizer(classifier.parameters()).defaults["fused"] is True


def test_without_a_compiler_compiling_is_refused(small, monkeypatch):
    config = small("compile=true")
    monkeypatch.setattr("convnets.training.building.shutil.which", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"compile=true needs a C\+\+ compiler .*apt install g\+\+"):
        build_classifier(config, build_datamodule(config))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lenet", "vgg", "resnet18"])
def test_compiled_for_this_processor_gradients_are_as_exact_as_without(small, model):
    """Compared with float64 in one step: over several, batch norm turns rounding into large differences."""
    options = (f"model={model}", "data.resize=32", *(["model.dropout=0.0"] if model == "vgg" else []))
    compiled, plain, exact = (
        build_classifier(config, build_datamodule(config))
        for config in (small(*options, f"compile={flag}") for flag in ("true", "false", "false"))
    )
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(32, 1, 32, 32, generator=generator).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (32,), generator=generator)
    for classifier, pixels in ((compiled, images), (plain, images), (exact.double(), images.double())):
        F.cross_entropy(classifier._train_forward(pixels), labels).backward()

    def error(classifier):
        pairs = zip(classifier.network.parameters(), exact.network.parameters(), strict=True)
        # Biases before batch norm have no gradient but rounding.
        return max(((p.grad - q.grad).norm() / q.grad.norm()).item() for p, q in pairs if q.grad.norm() > 1e-6)

    assert 0 < error(compiled) < 1.5 * error(plain) < 0.02


class Copies(TorchDispatchMode):
    """Records for each copy to another device whether the program waits for it."""

    def __init__(self):
        super().__init__()
        self.waited_for = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and kwargs.get("device") not in (None, args[0].device):
            self.waited_for.append(not kwargs.get("non_blocking"))
        return func(*args, **kwargs)


def test_a_gpu_is_not_waited_for_when_a_batch_is_chosen_augmented_and_resized():
    """With fake tensors, which have no content, in place of a GPU's."""
    copies = Copies()
    with FakeTensorMode(allow_non_fake_inputs=True), copies:
        pixels = torch.zeros(100, 3, 28, 28, dtype=torch.uint8, device="cuda")
        images, _ = ImageBatches(pixels, torch.zeros(100, dtype=torch.int64, device="cuda"))[torch.arange(16)]
        for augment in AUGMENTATIONS.values():
            images = augment(images, Draws(0, 16))
        ready = to_network_input(images, 56, [0.5] * 3, [0.5] * 3)
    assert (ready.shape, ready.device.type) == ((16, 3, 56, 56), "cuda")
    assert copies.waited_for == [False] * (1 + len(AUGMENTATIONS) + 2)
