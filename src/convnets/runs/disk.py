"""How much disk space runs take, and the removal of checkpoints that finished runs no longer need."""

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from convnets.files import RunFolderError, shown
from convnets.runs.lock import is_held, locked
from convnets.runs.run import FINISHED_FILES
from convnets.text import aligned, size


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
            with suppress(FileNotFoundError):  # a running job replaces its files
                num_bytes = os.lstat(f"{parent}/{name}").st_size
                total += num_bytes
                checkpoints += num_bytes if Path(parent) == path / "checkpoints" else 0
                weights += num_bytes if name == "weights.safetensors" else 0
    return Weight(path, total, checkpoints, weights)


def as_table(weights: Sequence[Weight], most_rows: int = 30) -> str:
    """The heaviest folders, and the sum of all, for a terminal."""
    heaviest = sorted(weights, key=lambda weight: -weight.total)
    rows = [("folder", "size", "checkpoints", "weights")]
    rows += [_row(shown(one.path), [one]) for one in heaviest[:most_rows]]
    if rest := heaviest[most_rows:]:
        rows.append(_row(f"{len(rest):,} more", rest))
    return "\n".join(aligned([*rows, _row(f"all {len(heaviest):,}", heaviest)]))


def _row(name: str, weights: Sequence[Weight]) -> tuple[str, str, str, str]:
    sums = [sum(getattr(one, part) for one in weights) for part in ("total", "checkpoints", "weights")]
    return name, size(sums[0]), size(sums[1]), size(sums[2])


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
