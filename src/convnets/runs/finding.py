"""Find a run's folder by what a user calls it. Knows no torch."""

import logging
from pathlib import Path

from convnets.configuration.shell import nearest_name, removal, script
from convnets.files import RunFolderError, last_change, read_json

log = logging.getLogger(__name__)

RUN_IS = "RUN is a folder, latest, or best:SWEEP."


def find_run(run: str | Path) -> Path:
    """The folder of a run: a folder, its name in outputs/, "latest", or "best:SWEEP" (the highest validation accuracy).

    Raises:
        RunFolderError: there is no such run.
    """
    outputs = Path("outputs")
    text = str(run)
    if not text:
        raise RunFolderError(f"The name of a run is empty. {RUN_IS}")
    if (folder := Path(run).expanduser()).is_dir():
        return folder
    folders = [path.parent for path in (*outputs.glob("runs/*/config.yaml"), *outputs.glob("sweeps/*/*/config.yaml"))]
    if text == "latest":
        if not folders:
            raise RunFolderError(f"There is no run in outputs/ yet: {script('train')} makes one.")
        return max(folders, key=last_change)
    if text.startswith("best:"):
        return _best_of(outputs / "sweeps", text.removeprefix("best:"))
    found = [folder for folder in folders if folder.name == text]
    if len(found) > 1:
        raise RunFolderError(f"There are several runs {text}. Give the folder: {' or '.join(map(str, found))}.")
    if not found:
        nearest = nearest_name(text, [folder.name for folder in folders])
        raise RunFolderError(f"There is no run {text}. {f'Did you mean {nearest}?' if nearest else RUN_IS}")
    return found[0]


def _best_of(sweeps_dir: Path, name: str) -> Path:
    sweep_dir = Path(name) if Path(name).is_dir() else sweeps_dir / name
    results = {path.parent: read_json(path) for path in sorted(sweep_dir.glob("*/result.json"))}
    if not results:
        sweeps = sorted(path.name for path in sweeps_dir.glob("*"))
        known = f" Sweeps: {', '.join(sweeps)}." if sweeps else ""
        raise RunFolderError(f"There is no finished run in {sweep_dir}.{known}")
    for folder, result in results.items():
        if "val/accuracy" not in result.get("metrics", {}) or "validated_on" not in result:
            raise RunFolderError(f"{folder / 'result.json'} is damaged. To train anew: {removal(folder)}")
    best = max(results, key=lambda folder: results[folder]["metrics"]["val/accuracy"])
    if results[best]["validated_on"] == "test split":
        log.warning("%s is the best of %d on the test split itself: its accuracy flatters.", best, len(results))
    return best
