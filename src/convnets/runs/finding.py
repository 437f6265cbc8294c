"""Find runs by what a user calls them."""

import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from convnets.configuration.shell import nearest_name, script
from convnets.files import RunFolderError, read_json, removal

RUNS_DIR, SWEEPS_DIR = Path("outputs/runs"), Path("outputs/sweeps")  # as in conf/train.yaml


def last_change(path: Path) -> float:
    """When the run in the folder last went on: the `latest` run is the one that went on last."""
    status_path = path / "status.json"  # which a run killed in its first moment has not
    return (status_path if status_path.exists() else path / "config.yaml").stat().st_mtime


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


FILES_OF_A_RUN = {"config.yaml", "status.json", "result.json"}


def find_folders(words: Sequence[str]) -> list[Path]:
    """The folders meant: paths, names in outputs/sweeps and outputs/runs, or latest; by default both of these.

    Raises:
        RunFolderError: there is no such folder.
    """
    parents = [Path("outputs/sweeps"), Path("outputs/runs")]
    if not words:
        return [parent for parent in parents if parent.is_dir()]
    folders = []
    for word in words:
        if not word:
            raise RunFolderError("The name of a folder is empty: give a run's, a sweep's or any folder above.")
        if word == "latest" and (runs := find_runs([parent for parent in parents if parent.is_dir()])):
            folders.append(max(runs, key=last_change))
            continue
        found = [path for path in (Path(word), *(parent / word for parent in parents)) if path.is_dir()]
        if not found:
            names = [path.name for parent in parents if parent.is_dir() for path in parent.iterdir()]
            nearest = difflib.get_close_matches(word, names, n=1)
            hint = f" Did you mean {nearest[0]}?" if nearest else " Give a run's, a sweep's or any folder above."
            raise RunFolderError(f"There is no folder {word}.{hint}")
        folders.append(found[0])
    return folders


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The runs' folders in these, at any depth, each once."""
    found = {path.resolve(): path for folder in folders for path in _runs_below(folder)}
    return list(found.values())


def _runs_below(folder: Path) -> Iterator[Path]:
    for name, folders, files in os.walk(folder):
        if not FILES_OF_A_RUN.isdisjoint(files):
            folders.clear()
            yield Path(name)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
