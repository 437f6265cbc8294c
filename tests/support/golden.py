"""What the project computes, in numbers: `python tests/support/golden.py` writes tests/golden.json anew.

With float32 or float64 as argument it only shows the losses, such as for measuring how much they differ elsewhere.
"""

import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

import hydra
import torch
from omegaconf import OmegaConf

PATH = Path(__file__).parents[1] / "golden.json"
NUM_LOSSES = 20
QUICK = ("data=fashion_mnist_sample", "trainer=cpu", "trainer.max_epochs=3", "trainer.limit_val_batches=1",
         "callbacks=none", "logger=none", "init=xavier")  # fmt: skip
FEW = ("data.resize=32", "data.batch_size=16", "trainer.max_epochs=2", "trainer.limit_train_batches=10")
RECIPES = {
    "lenet": (),
    "lenet, momentum, onecycle": ("optimizer=momentum", "schedule=onecycle", "model.activation=relu"),
    "vgg": ("model=vgg", *FEW),
    "resnet18": ("model=resnet18", *FEW),
}


def sha256(tensor):
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def exact():
    """Integers, orders and bytes, which are the same everywhere."""
    from convnets.data import Batch, FashionMNISTSampleDataModule
    from convnets.data.sampling import BatchSampler, derive_seed

    def first_batch(seed, epoch):
        return next(iter(BatchSampler(1000, 16, seed, position=lambda: (epoch, 0)))).numbers.tolist()

    parts = [(), (0,), ("order", 0, 0), ("holdout", 7), ("augment", 1, 0, 2, 3), ("step", 4294967295, 0, 9, 468)]
    datamodule = FashionMNISTSampleDataModule(augment="shift_flip", holdout=20, split_seed=3, seed=2)
    datamodule.setup()
    images, labels = datamodule.splits["train"][torch.arange(128)]
    held_out, held_out_labels = datamodule.splits["val"][torch.arange(20)]
    augmented = datamodule.training_batch(Batch(images, labels, 128, (0, 1, 4))).images.mul(255).round().byte()
    return {
        "derive_seed": {repr(each): derive_seed(*each) for each in parts},
        "orders": {
            f"seed {seed}, epoch {epoch}": next(
                iter(BatchSampler(1000, 16, seed, position=lambda e=epoch: (e, 0)))
            ).numbers.tolist()
            for seed in (0, 1)
            for epoch in (0, 1)
        },
        "holdout": [held_out_labels.tolist(), sha256(held_out)],
        "augmented": sha256(augmented),
    }


def losses(recipe, run_dir, dtype=torch.float64):
    """The first training losses of a recipe, in the order of the steps.

    In float64 from the first weights on, which are drawn in float32 as always: what different processors, numbers of
    threads and libraries round differently is then far below what a change of the computation makes.
    """
    from support.repository import hydra_context

    import convnets.training.command  # noqa: F401 (registers the functions that conf/ calls)
    from convnets.training.building import build_classifier, build_datamodule, build_trainer

    with hydra_context():
        config = hydra.compose("train", [*QUICK, *RECIPES[recipe]])
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    found = []
    datamodule = build_datamodule(config)
    classifier = build_classifier(config, datamodule)
    step, optimizers = classifier.training_step, classifier.configure_optimizers

    def in_dtype():
        classifier.to(dtype)  # after the initialisation, whose weights stay those of float32
        return optimizers()

    def noting(batch, batch_idx):
        images, labels = batch
        loss = step((images.to(dtype), labels), batch_idx)
        if len(found) < NUM_LOSSES:
            found.append(loss.item())
        return loss

    classifier.training_step, classifier.configure_optimizers = noting, in_dtype
    forward = classifier.forward
    classifier.forward = lambda images: forward(images.to(dtype))
    build_trainer(config, Path(run_dir)).fit(classifier, datamodule=datamodule)
    return found


def all_losses(dtype=torch.float64):
    found = {}
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory() as run_dir:
            found[recipe] = losses(recipe, run_dir, dtype)
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from convnets.configuration.content import COMPUTATION

    if len(sys.argv) > 1:  # float32 or float64: only show the losses
        print(json.dumps(all_losses(getattr(torch, sys.argv[1]))))
    else:
        new = {"computation": COMPUTATION, **exact(), "losses": all_losses()}
        PATH.write_text(re.sub(r", (?=\"|\n)", ",\n", json.dumps(new)) + "\n")  # a key a line
