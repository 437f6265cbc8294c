"""The run folder's curves, while they grow."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback

from convnets.callbacks.history import History
from convnets.dashboard.drawing import Drawings
from convnets.files import write_atomically
from convnets.plots import training_curves


def write_curves(rows: Sequence[Mapping[str, float]], title: str, run_dir: Path) -> None:
    """Draw the rows of `History` into curves.png and curves.svg, each whole or as it was."""
    figure = training_curves(rows, title)
    for suffix in ("png", "svg"):
        picture = io.BytesIO()
        figure.savefig(picture, format=suffix, dpi=120, metadata={"Date": None} if suffix == "svg" else None)
        write_atomically(run_dir / f"curves.{suffix}", picture.getvalue())


def curves_title(name: str, datamodule: lightning.LightningDataModule) -> str:
    """What stands above them."""
    return f"{name} on {datamodule.name}"


class Curves(Callback):
    """Draws curves.png and curves.svg anew after each epoch but the last, whose curves the training itself draws.

    Where epochs are shorter than the drawing, after as many as it takes.

    Args:
        name: of the network, for the title.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._drawings = Drawings()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Hand the rows to the drawing thread."""
        rows = History.of(trainer).rows
        if trainer.is_global_zero and len(rows) != trainer.max_epochs and not self._drawings.busy:
            title = curves_title(self.name, trainer.datamodule)  # type: ignore[attr-defined]
            self._drawings.add(write_curves, list(rows), title, Path(trainer.default_root_dir))

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Wait: the last curves must not be overwritten by older ones."""
        self._drawings.wait()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Leave whole curves of what there is."""
        self._drawings.wait()
