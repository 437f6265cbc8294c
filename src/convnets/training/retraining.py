"""Go on with a run; one that is finished and has no checkpoints is trained again, for longer, and then replaced."""

import shutil
from collections.abc import Sequence

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from convnets.callbacks.history import TIMES
from convnets.configuration.content import differences
from convnets.files import write_atomically
from convnets.runs.images import changed_images
from convnets.runs.run import Run
from convnets.training.extend import extend
from convnets.training.train import train

FOLDER = ".retraining"  # in the run's; no run has such a name


def go_on(run: Run, changes: Sequence[str] = (), retrain: bool = False) -> str | None:
    """Train a run on, with the changes and as `extend` allows.

    Returns:
        What became of a retrained run, in words; None where there is nothing more to say.
    """
    longer = run if run.path.name == FOLDER else Run(run.path / FOLDER, run.trust)
    config = extend(run, changes, retrain)
    if run is not longer and not (run.result and differences(run.config, config)):
        train(config, run.path)
        return None
    if (longer.path / "config.yaml").exists() and differences(longer.stored_config, config):
        shutil.rmtree(longer.path)  # of another number of epochs
    train(config, longer.path)
    return _replace(Run(longer.path.parent), longer)


@rank_zero_only
def _replace(run: Run, longer: Run) -> str:
    """Put the files of the longer training in the place of the run's own, if its first epochs came out the same.

    config.yaml comes last: until then the command that began the retraining does this again.
    """
    with run.locked(), longer.locked():
        if difference := changed_images(run.path, longer.facts) or _difference(run, longer):
            return f"{difference} So {run} is as it was, and the longer training lies in {longer}."
        for path in run.path.glob("events.out.tfevents.*"):  # whose points would be drawn twice
            path.unlink()
        for path in run.path.glob("[0-9]*"):  # TensorBoard's projector
            shutil.rmtree(path)
        for path in sorted(longer.path.iterdir(), key=lambda path: path.name == "config.yaml"):
            if path.is_dir():
                shutil.copytree(path, run.path / path.name, dirs_exist_ok=True)
            elif path.name != ".lock":
                write_atomically(run.path / path.name, path.read_bytes())
        shutil.rmtree(longer.path)
    return (
        f"{run} has {run.epoch} epochs now, and {longer} is no more. The first ones came out as before, to the last "
        "digit."
    )


def _difference(run: Run, longer: Run) -> str:
    """What differs between the epochs that both have, in words; empty where only times do."""
    for old, new in zip(run.history, longer.history, strict=False):
        for name in old:
            if name not in TIMES and old[name] != new.get(name):
                return (
                    f"The first epochs did not come out to the same bits: {name} of epoch {old['epoch']} was "
                    f"{old[name]} and came out as {new.get(name)}, as it may with other versions, threads or hardware."
                )
    return ""
