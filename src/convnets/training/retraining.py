"""More epochs for a finished run without checkpoints: it is trained again, for longer, and then replaced."""

import shutil
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from convnets.callbacks.history import TIMES
from convnets.files import write_atomically
from convnets.runs.run import Run

FOLDER = "retraining"  # in the run's


@rank_zero_only
def replace_by_longer(longer_dir: Path) -> str:
    """Put what a finished training left in RUN/retraining in the place of the run's own files.

    config.yaml comes last: until then the command that began the retraining does this again.

    Returns:
        Whether the first epochs came out as they had been, in words.
    """
    run, longer = Run(longer_dir.parent), Run(longer_dir)
    with run.locked(), longer.locked():
        said = _compared(run, longer)
        for path in run.path.glob("events.out.tfevents.*"):  # whose points would be drawn twice
            path.unlink()
        for path in run.path.glob("[0-9]*"):  # TensorBoard's projector
            shutil.rmtree(path)
        for path in sorted(longer_dir.iterdir(), key=lambda path: path.name == "config.yaml"):
            if path.is_dir():
                shutil.copytree(path, run.path / path.name, dirs_exist_ok=True)
            elif path.name != ".lock":
                write_atomically(run.path / path.name, path.read_bytes())
        shutil.rmtree(longer_dir)
    return f"{run} has {run.epoch} epochs now. {said}"


def _compared(run: Run, longer: Run) -> str:
    before = run.history
    for old, new in zip(before, longer.history, strict=False):
        for name in old:
            if name not in TIMES and old[name] != new.get(name):
                return (
                    f"But they are not the same bits: {name} of epoch {old['epoch']} was {old[name]} and came out as "
                    f"{new.get(name)}, as it may with other versions, threads, hardware or images."
                )
    return f"The first {len(before)} came out as before, to the last digit."
