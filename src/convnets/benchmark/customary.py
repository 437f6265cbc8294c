"""The training as most Lightning programs have it: the comparison that users would otherwise run.

A torchvision dataset whose images pass PIL transforms one by one, a DataLoader with workers, a metric and a log entry
for every step, Lightning's progress bar, checkpoints and TensorBoard as they come.
"""

import os
from pathlib import Path

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from convnets.benchmark.measuring import Task

Batch = tuple[Tensor, Tensor]


class CustomaryModule(lightning.LightningModule):
    """A network with cross-entropy, SGD, and a log entry for every step."""

    def __init__(self, network: nn.Module, lr: float) -> None:
        super().__init__()
        self.network = network
        self.lr = lr
        self.train_accuracy = MulticlassAccuracy(num_classes=10, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes=10, average="micro")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log loss and accuracy of a batch."""
        images, labels = batch
        scores = self.network(images)
        loss = F.cross_entropy(scores, labels)
        self.train_accuracy(scores, labels)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", self.train_accuracy, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and accuracy of the epoch."""
        images, labels = batch
        scores = self.network(images)
        self.val_accuracy(scores, labels)
        self.log("val/loss", F.cross_entropy(scores, labels), prog_bar=True)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def train(task: Task, network: nn.Module, lr: float, image_size: int, root: Path, callback: Callback) -> None:
    """Train with Lightning's own choices, and a worker for each core but at most eight where the task has no number.

    Args:
        root: the folder in which torchvision finds the images.
    """
    transform = transforms.Compose([transforms.Resize((image_size, image_size)), transforms.ToTensor()])
    num_workers = min(len(os.sched_getaffinity(0)), 8) if task.num_workers is None else task.num_workers
    train_loader, val_loader = (
        DataLoader(
            FashionMNIST(root, train=is_train, transform=transform, download=True),
            task.batch_size,
            shuffle=is_train,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
        for is_train in (True, False)
    )
    trainer = lightning.Trainer(
        max_epochs=task.num_epochs,
        limit_train_batches=task.num_steps,
        limit_val_batches=task.num_val_batches,
        logger=TensorBoardLogger(Path.cwd()),
        devices=1,
        num_sanity_val_steps=0,  # its two batches would count as validation here
        callbacks=[callback],
    )
    trainer.fit(CustomaryModule(network, lr), train_loader, val_loader)
