"""What runs' folders weigh, and the removal of checkpoints that finished runs no longer need."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convnets.files import RunFolderError, is_held, locked, shown
from convnets.runs.run import FINISHED_FILES
from convnets.text import size


@dataclass(frozen=True)
class Weight:
    """Bytes of a run's folder: in all, and of its parts."""

    path: Path
    total: int
    checkpoints: int
    weights: int


def weigh(path: Path) -> Weight:
    """Add up the sizes of a run's files."""
    total = checkpoints = weights = 0
    for parent, _, names in os.walk(path):
        for name in names:
            try:
                size = os.lstat(f"{parent}/{name}").st_size
            except FileNotFoundError:  # a running job replaces its files
                continue
            total += size
            checkpoints += size if Path(parent) == path / "checkpoints" else 0
            weights += size if name == "weights.safetensors" else 0
    return Weight(path, total, checkpoints, weights)


def as_table(weights: Sequence[Weight], most_rows: int = 30) -> str:
    """The heaviest folders, and the sum of all, for a terminal."""
    heaviest = sorted(weights, key=lambda weight: -weight.total)
    rows = [(shown(each.path), each.total, each.checkpoints, each.weights) for each in heaviest[:most_rows]]
    if len(heaviest) > most_rows:
        rest = heaviest[most_rows:]
        rows.append((f"{len(rest):,} more", *_sums(rest)))
    rows.append((f"all {len(heaviest):,}", *_sums(heaviest)))
    width = max(len(row[0]) for row in rows)
    header = f"{'folder':{width}}  {'size':>10}  {'checkpoints':>11}  {'weights':>10}"
    lines = [f"{name:{width}}  {size(a):>10}  {size(b):>11}  {size(c):>10}" for name, a, b, c in rows]
    return "\n".join([header, *lines])


def _sums(weights: Sequence[Weight]) -> tuple[int, int, int]:
    return sum(w.total for w in weights), sum(w.checkpoints for w in weights), sum(w.weights for w in weights)


def prunable(path: Path) -> list[Path]:
    """The checkpoints of a run that is finished, whole and in nobody's hands; none of any other."""
    checkpoints = path / "checkpoints"
    if checkpoints.is_symlink() or not all((path / name).is_file() for name in FINISHED_FILES) or is_held(path):
        return []
    return sorted(checkpoints.glob("*.ckpt*"))


def prune(path: Path) -> None:
    """Remove the folder's checkpoints, holding its lock.

    Raises:
        RunFolderError: another process holds the folder now, or it cannot be written.
    """
    with locked(path):
        if not all((path / name).is_file() for name in FINISHED_FILES):
            raise RunFolderError(f"{shown(path)} is being extended: its checkpoints stay.")
        shutil.rmtree(path / "checkpoints")


def prune_after_asking(paths: Sequence[Path], without_asking: bool = False) -> int:
    """List what would be removed of these runs, ask at the terminal, remove it; return the exit code."""
    found = {path: checkpoints for path in paths if (checkpoints := prunable(path))}
    if not found:
        print("There is no checkpoint of a finished run; those of unfinished runs stay, to go on from.")
        return 0
    sizes = {path: sum(file.stat().st_size for file in files) for path, files in found.items()}
    number = sum(map(len, found.values()))
    for path, files in found.items():
        print(f"{size(sizes[path]):>10}  {shown(path)}: {', '.join(file.name for file in files)}")
    question = f"Remove {number:,} checkpoints ({size(sum(sizes.values()))})?"
    print("The weights stay; epochs can no longer be added to these runs.")
    if not without_asking:
        if not sys.stdin.isatty():
            print(f"{question} Nobody can be asked here, so nothing was removed: add --yes.", file=sys.stderr)
            return 1
        try:
            answer = input(f"{question} [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            print("Nothing was removed.")
            return 0
    failures = 0
    for path in found:
        try:
            prune(path)
        except RunFolderError as error:
            failures += 1
            print(error, file=sys.stderr)
    print(f"Removed the checkpoints of {len(found) - failures:,} runs.")
    return 1 if failures else 0
