"""The run folder's curves.png and curves.svg."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from convnets.dashboard.drawing import Drawings
from convnets.data import ImageDataModule
from convnets.files import read_table, write_atomically
from convnets.plots import training_curves


def write_curves(rows: Sequence[Mapping[str, float]], title: str, run_dir: Path) -> None:
    """Draw the rows of metrics.csv into curves.png and curves.svg, each of which is replaced as a whole."""
    figure = training_curves(rows, title)
    for suffix in ("png", "svg"):
        picture = io.BytesIO()
        figure.savefig(picture, format=suffix, dpi=120, metadata={"Date": None} if suffix == "svg" else None)
        figure.set_layout_engine("none")  # that of the first picture stays
        write_atomically(run_dir / f"curves.{suffix}", picture.getvalue())


def curves_title(name: str, datamodule: ImageDataModule) -> str:
    """The title of the curves of a network."""
    return f"{name} on {datamodule.name}"


class Curves(Callback):
    """Draws the curves anew after each epoch but the last, after which the training itself draws them.

    While an earlier drawing is still under way, an epoch is left out.

    Args:
        name: of the network, for the title.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._drawings = Drawings()

    def on_epoch_row(self, trainer: Trainer, classifier: LightningModule, row: Mapping[str, float]) -> None:
        """Hand the rows of metrics.csv to the drawing thread."""
        if trainer.is_global_zero and row["epoch"] != trainer.max_epochs and not self._drawings.busy:
            title = curves_title(self.name, ImageDataModule.of(trainer))
            run_dir = Path(trainer.default_root_dir)
            self._drawings.add(write_curves, read_table(run_dir / "metrics.csv"), title, run_dir)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait, so that these curves do not overwrite the last ones."""
        self._drawings.wait()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Wait, so that the curves are whole."""
        self._drawings.wait()
