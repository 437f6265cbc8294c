"""The programs that are compared, each training the same network by the same recipe.

As a program, this runs one of them in a folder that may be filled: python -P contenders.py TASK STARTED RESULT_PATH.
"""

import gzip
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from convnets.benchmark.measuring import NUM_TRAINING_IMAGES, Marks, Task, peak_mib, reset_peak
from convnets.configuration.shell import CONFIG_DIR, quoted
from convnets.files import processor_name

INSTALL_D2L = "pip install --no-deps d2l && pip install pandas requests ipython matplotlib-inline scipy"


def _overrides(task: Task) -> list[str]:
    """The task as overrides for scripts/train.py."""
    words = {
        "trainer.max_epochs": task.num_epochs,
        "trainer.precision": task.precision,
        "trainer.limit_train_batches": task.num_steps,
        "trainer.limit_val_batches": task.num_val_batches,
        "trainer.limit_test_batches": task.num_val_batches,  # of the dashboard's summary
        "data.batch_size": task.batch_size,
        "data.resize": task.resize,
        "compile": str(task.compile).lower(),
        "steps_per_execution": task.steps_per_execution,
        "data.dir": task.data_dir and quoted(task.data_dir),
    }
    ranks = ["trainer=ddp", f"trainer.devices={task.num_ranks}"] if task.num_ranks > 1 else []
    settings = [f"{key}={value}" for key, value in words.items() if value is not None]
    return [f"model={task.model}", f"data={task.data}", *ranks, *settings]


def _ours(task: Task, marks: Marks, *callbacks: Any) -> None:
    """scripts/train.py, word for word, with marks; what it needs is imported where it imports it."""
    from convnets.training.command import main

    marks.imported(marks.started)
    sys.argv = [str(CONFIG_DIR.parent / "scripts" / "train.py"), *_overrides(task)]

    @main
    def train_marked(config: Any, run_dir: Path) -> None:
        started = time.monotonic()
        from convnets.training.train import train

        marks.imported(started)
        marks.watch()
        train(config, run_dir, [_validation_marks(marks), *callbacks])

    train_marked()


def _validation_marks(marks: Marks) -> Any:
    from lightning.pytorch.callbacks import Callback

    class ValidationMarks(Callback):
        def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
            marks.validation_batch()

    return ValidationMarks()


def _parts(task: Task) -> tuple[Any, Any, Any]:
    """Configuration, datamodule and network of the recipe; its initialization changes no cost, so it is left out."""
    from convnets.training.building import build_classifier, build_datamodule
    from convnets.training.command import compose

    config, _ = compose(_overrides(task))
    datamodule = build_datamodule(config)
    datamodule.prepare_data()
    return config, datamodule, build_classifier(config, datamodule).network


def _bare(task: Task, marks: Marks) -> None:
    from convnets.benchmark import bare

    marks.imported(marks.started)
    marks.watch()
    bare.train(task, marks)


def _import_ours() -> float:
    """Import what `_parts` needs; return the seconds that it took.

    Where only `_parts` needs it, that is not the program's time; but it gives d2l 64 MiB, which has no Lightning.
    """
    started = time.monotonic()
    import convnets.training.building  # noqa: F401

    return time.monotonic() - started


def _customary(task: Task, marks: Marks) -> None:
    from convnets.benchmark import customary

    marks.imported(marks.started)
    marks.started += _import_ours()
    marks.watch()
    config, datamodule, network = _parts(task)
    root = _torchvision_root(datamodule.dir)
    size, callback = config.data.resize, _validation_marks(marks)
    customary.train(task, _as_it_comes(network), config.model.lr, size, root, callback)


def _d2l(task: Task, marks: Marks) -> None:
    """The book's own package: its data, its trainer and its drawing board with the same network."""
    os.environ["MPLBACKEND"] = "agg"
    try:
        from d2l import torch as d2l
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}, which d2l needs: {INSTALL_D2L}") from None

    marks.imported(marks.started)
    marks.started += _import_ours()
    marks.watch()
    config, datamodule, network = _parts(task)
    _torchvision_root(datamodule.dir)

    class Data(d2l.FashionMNIST):
        def get_dataloader(self, train: bool) -> Any:
            limit = task.num_steps if train else task.num_val_batches
            return _Limited(super().get_dataloader(train), limit)

    class Model(d2l.Classifier):
        def __init__(self, lr: float) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = _as_it_comes(network)
            if task.num_steps is not None:  # it draws after so many steps as in a whole epoch
                self.plot_train_per_epoch *= task.num_steps * task.batch_size / NUM_TRAINING_IMAGES

        def validation_step(self, batch: Any) -> None:
            marks.validation_batch()
            super().validation_step(batch)

    Path("work").mkdir()
    os.chdir("work")  # d2l looks for ../data
    data = Data(batch_size=task.batch_size, resize=(config.data.resize, config.data.resize))
    d2l.Trainer(max_epochs=task.num_epochs, num_gpus=1).fit(Model(config.model.lr), data)


class _Limited:
    """The first batches of a loader."""

    def __init__(self, loader: Any, num_batches: int | None) -> None:
        self.loader = loader
        self.num_batches = num_batches

    def __len__(self) -> int:
        return min(len(self.loader), self.num_batches or len(self.loader))

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.loader), len(self))


def _as_it_comes(network: Any) -> Any:
    """In PyTorch's own memory format, which programs have that do not choose one."""
    import torch

    return network.to(memory_format=torch.contiguous_format)


def _torchvision_root(data_dir: Path) -> Path:
    """A folder data/ in which torchvision finds the files that lie in `data_dir`, raw or .gz."""
    from convnets.data.archive import FASHION_MNIST_SHA256

    raw_dir = Path("data") / "FashionMNIST" / "raw"
    raw_dir.mkdir(parents=True)
    for name in FASHION_MNIST_SHA256:
        if (data_dir / name).exists():
            (raw_dir / name).symlink_to(data_dir / name)
        else:
            (raw_dir / name).write_bytes(gzip.decompress((data_dir / f"{name}.gz").read_bytes()))
    return Path("data")


def _data_path(task: Task, marks: Marks) -> dict[str, Any]:
    """No training: what memory the images and the making of batches add."""
    import torch
    from torch.utils.data import DataLoader

    from convnets.device import keep_freed_memory
    from convnets.training.building import build_datamodule
    from convnets.training.command import compose

    keep_freed_memory()  # as a training does
    config, _ = compose(_overrides(task))
    datamodule = build_datamodule(config)
    datamodule.prepare_data()
    torch.rand(1000, 1000) @ torch.rand(1000, 1000)  # threads and libraries have memory of their own
    reset_peak()
    before = peak_mib()
    datamodule.setup()
    loader: DataLoader[Any] = datamodule.train_dataloader()
    for batch in itertools.islice(loader, task.num_steps):
        datamodule.on_after_batch_transfer(batch, 0)
    return {"data_path_mib": peak_mib() - before}


def _launches(task: Task, marks: Marks) -> dict[str, Any]:
    """Ours, traced: its pace is no measure."""
    from convnets.benchmark.launches import Launches

    launches = Launches(task)
    _ours(task, marks, launches)
    return {"launches_waited_percent": launches.percent}


def _machine(task: Task, marks: Marks) -> dict[str, Any]:
    """No training: what the device is, and what its matrix products and its memory reach; needs nothing but torch."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from convnets.benchmark.bare import RECIPES
    from convnets.device import DTYPES, measure_bandwidth, measure_flops, prepare_process
    from convnets.networks.summary import training_flops

    with suppress(ModuleNotFoundError):  # where torch alone is installed, the images must be in their folder
        _parts(
            Task("machine", "lenet", data_dir=task.data_dir)
        )  # finds or fetches them, so that nobody does when timed
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    prepare_process(on_gpu, "high", deterministic=False)
    versions = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "lightning"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    memory = (
        torch.cuda.get_device_properties(device).total_memory
        if on_gpu
        else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    )
    return {
        "device": torch.cuda.get_device_name() if on_gpu else processor_name(),
        "on_gpu": on_gpu,
        "memory_mib": memory / 2**20,
        "num_threads": torch.get_num_threads(),
        "versions": versions,
        "flops_an_image": {
            model: training_flops(make(image_size=size, in_channels=1, num_classes=10), size)
            for model, (make, size, _) in RECIPES.items()
        },
        "peak_flops": {
            precision: measure_flops(device, DTYPES.get(precision, torch.float32), seconds=2)
            for precision in ("32-true", "bf16-mixed")
        },
        "bytes_a_second": measure_bandwidth(device, seconds=1),
    }


# Each trains and returns nothing, or measures something else and returns the figures.
CONTENDERS: Mapping[str, Callable[[Task, Marks], dict[str, Any] | None]] = {
    "ours": _ours,
    "bare": _bare,
    "customary": _customary,
    "d2l": _d2l,
    "data path": _data_path,
    "launches": _launches,
    "machine": _machine,
}

if __name__ == "__main__":
    text, started, result_path = sys.argv[1:]
    marks = Marks(Task(**json.loads(text)), float(started))
    figures = CONTENDERS[marks.task.contender](marks.task, marks) or marks.figures()
    Path(result_path).write_text(json.dumps(figures))
