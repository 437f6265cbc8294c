import csv
import threading

import lightning
from PIL import Image

from convnets.dashboard.curves import write_curves
from convnets.dashboard.drawing import Drawings
from convnets.training.train import train


class Reader(lightning.Callback):
    """Looks into the folder while the run goes on."""

    def __init__(self, path):
        self.path = path
        self.sizes = []

    def on_train_epoch_end(self, trainer, pl_module):
        drawings = next(c for c in trainer.callbacks if type(c).__name__ == "Curves")._drawings
        drawings.wait()
        self.sizes.append([(self.path / name).exists() for name in ("curves.png", "curves.svg")])


def test_curves_grow_with_the_run_and_end_as_those_of_its_metrics(small, tmp_path):
    path = tmp_path / "run"
    reader = Reader(path)
    train(small("callbacks=default", "trainer.max_epochs=3"), path, [reader])
    # An epoch's row, and so its curves, comes once all callbacks have ended it.
    assert reader.sizes == [[False, False], [True, True], [True, True]]
    with (path / "metrics.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    (tmp_path / "again").mkdir()
    write_curves(rows, "lenet on a sample of Fashion-MNIST", tmp_path / "again")
    for name in ("curves.png", "curves.svg"):
        assert (path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    with Image.open(path / "curves.png") as picture:
        assert picture.size == (720, 456)
    assert not list(path.glob(".curves*"))


def test_without_callbacks_the_curves_are_drawn_at_the_end(small, tmp_path):
    train(small("trainer.max_epochs=1"), tmp_path)
    assert (tmp_path / "curves.svg").read_text().startswith("<?xml")


def test_drawings_are_made_in_order_on_one_other_thread():
    drawings, done, threads = [Drawings(), Drawings()], [], set()
    release = threading.Event()
    drawings[0].add(release.wait)
    for number in range(6):
        drawings[number % 2].add(lambda n: (done.append(n), threads.add(threading.get_ident())), number)
    assert drawings[0].busy
    assert done == []
    release.set()
    for some in drawings:
        some.wait()
    assert done == list(range(6))
    assert threads != {threading.get_ident()}
    assert len(threads) == 1
    assert not drawings[0].busy
    assert drawings[0].seconds > 0
