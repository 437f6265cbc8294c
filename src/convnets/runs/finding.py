"""Find runs by what a user calls them."""

import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from convnets.configuration.shell import nearest_name, script
from convnets.files import RunFolderError, read_json, removal

log = logging.getLogger(__name__)
RUNS_DIR, SWEEPS_DIR = Path("outputs/runs"), Path("outputs/sweeps")  # as in conf/train.yaml
FILES_OF_A_RUN = {"config.yaml", "status.json", "result.json"}
RUN_IS = "RUN is a folder, its name, latest, or best:SWEEP."


def find_run(run: str | Path) -> Path:
    """The folder of a run: a folder, its name in outputs/, "latest", or "best:SWEEP" (the highest validation accuracy).

    Raises:
        RunFolderError: there is no such run.
    """
    word = str(run)
    if not word:
        raise RunFolderError(f"The name of a run is empty. {RUN_IS}")
    if (folder := Path(run).expanduser()).is_dir():
        return folder
    if word.startswith("best:"):
        return _best_of(word.removeprefix("best:"))
    folders = [path.parent for path in (*RUNS_DIR.glob("*/config.yaml"), *SWEEPS_DIR.glob("*/*/config.yaml"))]
    if word == "latest":
        if not folders:
            raise RunFolderError(f"There is no run in outputs/ yet: {script('train')} makes one.")
        return max(folders, key=last_change)
    found = [folder for folder in folders if folder.name == word]
    if len(found) > 1:
        raise RunFolderError(f"There are several runs {word}. Give the folder: {' or '.join(map(str, found))}.")
    if not found:
        nearest = nearest_name(word, [folder.name for folder in folders])
        raise RunFolderError(f"There is no run {word}. {f'Did you mean {nearest}?' if nearest else RUN_IS}")
    return found[0]


def last_change(path: Path) -> float:
    """When the run in the folder was last worked on. The `latest` run is the one where that is the newest."""
    status_path = path / "status.json"  # a run that was killed in its first moment has none
    return (status_path if status_path.exists() else path / "config.yaml").stat().st_mtime


def _best_of(sweep: str) -> Path:
    sweep_dir = Path(sweep) if Path(sweep).is_dir() else SWEEPS_DIR / sweep
    results = {path.parent: read_json(path) for path in sorted(sweep_dir.glob("*/result.json"))}
    if not results:
        sweeps = sorted(path.name for path in SWEEPS_DIR.glob("*"))
        known = f" Sweeps: {', '.join(sweeps)}." if sweeps else ""
        raise RunFolderError(f"There is no finished run in {sweep_dir}.{known}")
    for folder, result in results.items():
        if "val/accuracy" not in result.get("metrics", {}) or "validated_on" not in result:
            raise RunFolderError(f"{folder / 'result.json'} is damaged. To train anew: {removal(folder)}")
    best = max(results, key=lambda folder: results[folder]["metrics"]["val/accuracy"])
    if results[best]["validated_on"] == "test split":
        log.warning("%s is the best of %d on the test split itself: its accuracy flatters.", best, len(results))
    return best


def find_folders(words: Sequence[str]) -> list[Path]:
    """The folders of runs, of sweeps, or above them: paths, names in outputs/, or latest; by default all of outputs/.

    Raises:
        RunFolderError: there is no such folder.
    """
    parents = [parent for parent in (SWEEPS_DIR, RUNS_DIR) if parent.is_dir()]
    return [_find_folder(word, parents) for word in words] if words else parents


def _find_folder(word: str, parents: Sequence[Path]) -> Path:
    if not word:
        raise RunFolderError("The name of a folder is empty: give a run's, a sweep's or any folder above.")
    if word == "latest" and (runs := find_runs(parents)):
        return max(runs, key=last_change)
    for path in (Path(word), *(parent / word for parent in parents)):
        if path.is_dir():
            return path
    nearest = difflib.get_close_matches(word, [path.name for parent in parents for path in parent.iterdir()], n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else "Give a run's, a sweep's or any folder above."
    raise RunFolderError(f"There is no folder {word}. {hint}")


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The runs' folders in these, at any depth, each once."""
    return list({path.resolve(): path for folder in folders for path in _runs_below(folder)}.values())


def _runs_below(folder: Path) -> Iterator[Path]:
    for name, subfolders, files in os.walk(folder):
        if not FILES_OF_A_RUN.isdisjoint(files):
            yield Path(name)
            subfolders.clear()
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
