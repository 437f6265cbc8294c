"""A person's own pictures: a folder of classes, with a split of its own or without."""

import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from convnets.data.archive import DataUnavailableError
from convnets.data.images import ImageDataModule, chosen
from convnets.data.picture_cache import PictureCache, PictureFile
from convnets.data.sampling import ImageBatches, stratified_split
from convnets.text import count

log = logging.getLogger(__name__)

LAYOUTS = "The pictures must lie in DIR/CLASS/, or in DIR/train/CLASS/ and DIR/test/CLASS/ (or DIR/val/CLASS/)."
# What programs leave in folders, beside names that start with a dot, and nobody takes for a picture or a class.
IGNORED = {"Thumbs.db", "desktop.ini", "__MACOSX", "@eaDir"}
MOST_NAMED = 5  # files or classes in a message


class Listing(NamedTuple):
    """The files of a folder of classes: the split and the number of the class of each, in the order of their names."""

    class_names: tuple[str, ...]
    files: list[PictureFile]
    splits: list[str]
    labels: list[int]


class ImageFolderDataModule(ImageDataModule):
    """The pictures of a folder, in the classes that its folders name: JPEG, PNG, WebP, BMP, TIFF, GIF or PPM.

    They lie in `dir`/train/CLASS and `dir`/test/CLASS (or val), at any depth; or in `dir`/CLASS, and a share of each
    class is the test split. With train, val and test, val is what is held out, and `holdout` must say how many these
    are. Each picture is decoded once, see `PictureCache`: its shorter side scaled to `stored_size`, the middle cut out.

    Args:
        dir: the folder.
        stored_size: side of the stored images in pixels; `resize` is made of these.
        channels: 3, or 1 for grey.
        bad_files: "refuse" to train where files cannot be decoded, or "skip" these with a warning.
        test_share: of the pictures, where the folder has no split of its own; `split_seed` picks which.
        cache_dir: where decoded pictures are kept.
        options: see `ImageDataModule`.
    """

    def __init__(
        self,
        dir: str | Path,
        stored_size: int = 256,
        channels: int = 3,
        bad_files: str = "refuse",
        test_share: float = 0.2,
        cache_dir: str | Path = "~/.cache/convnets/pictures",
        **options: Any,
    ) -> None:
        super().__init__(dir, **options)
        self.dir = self.dir.absolute()
        self.name = self.dir.name
        self.image_size = stored_size
        self.num_channels = chosen("channels", channels, {1: 1, 3: 3})
        self.bad_files = bad_files
        self.test_share = test_share
        self.cache_dir = Path(cache_dir).expanduser().absolute()

    @cached_property
    def listing(self) -> Listing:
        """The folder's files, as they were when first asked for."""
        return list_pictures(self.dir)

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the folders, sorted; or what a run remembers of them, until the folder is read."""
        return self.listing.class_names

    @cached_property
    def cache(self) -> PictureCache:
        """Where the pictures lie decoded, or will."""
        return PictureCache(self.cache_dir, self.dir, self.listing.files, self.image_size, self.num_channels)

    @property
    def digest(self) -> str:  # type: ignore[override]
        """Of the folder's listing, and of how the pictures are stored; nothing need be decoded."""
        return self.cache.digest

    def prepare_data(self) -> None:
        """Decode what is not decoded yet; on one process of each machine.

        Raises:
            DataUnavailableError: files cannot be decoded, and are not to be skipped; no room.
        """
        if self.splits:
            return
        self.class_names = self.listing.class_names
        self.cache.fill()
        bad = self.cache.bad_files() or {}
        lines = [f"  {_readable(name)}: {reason}" for name, reason in [*bad.items()][:MOST_NAMED]]
        lines += [f"  and {len(bad) - MOST_NAMED:,} more"] if len(bad) > MOST_NAMED else []
        headline = f"{len(bad):,} of {count(len(self.listing.files), 'file')} of {self.dir} cannot be decoded"
        if bad and self.bad_files == "refuse":
            way_out = "Take them out of the folder, or leave them out of the training with data.bad_files=skip."
            raise DataUnavailableError("\n".join([f"{headline}:", *lines, way_out]))
        if bad:
            log.warning("%s", "\n".join([f"{headline}, and are skipped:", *lines]))

    def read_splits(self) -> dict[str, ImageBatches]:
        """Map the decoded pictures into memory.

        Raises:
            DataUnavailableError: the folder is not as it was when `prepare_data` decoded it.
            ValueError: `holdout` is not the number of the pictures in val.
        """
        _, files, splits, labels = self.listing
        bad = self.cache.bad_files()
        if bad is None:
            raise DataUnavailableError(f"{self.dir} changed after its pictures were decoded: start again.")
        mapped = self.cache.open()
        everything = ImageBatches(mapped.images, torch.tensor(labels), after_reading=mapped.note_reading)
        good = torch.tensor([file.name not in bad for file in files])
        rows = {
            split: (good & torch.tensor([name == split for name in splits])).nonzero().squeeze(1)
            for split in dict.fromkeys(splits)
        }
        found = {split: everything.part(numbers) for split, numbers in rows.items()}
        if "all" in found:
            undivided = found["all"]
            num_tested = max(round(self.test_share * len(undivided)), 1)
            train, test = stratified_split(undivided.labels, range(num_tested), self.split_seed)
            found = {"train": undivided.part(train), "test": undivided.part(test)}
        if "val" in found and self.holdout != len(found["val"]):
            raise ValueError(
                f"{self.dir} has {len(found['val']):,} pictures in val: set data.holdout={len(found['val'])} to "
                "validate on these, and evaluate on the test split once, at the end."
            )
        return found

    def _split(self) -> dict[str, ImageBatches]:
        """Hold some out.

        Raises:
            ValueError: a class is left without a picture in some split.
        """
        splits = super()._split()
        for split in ("train", "test", "val"):
            counts = splits[split].labels.bincount(minlength=self.num_classes).tolist()
            if missing := [name for name, number in zip(self.class_names, counts, strict=True) if number == 0]:
                raise ValueError(
                    f"{self.dir} has no picture for the {split} split of: {_some(missing)}. Add pictures, or choose "
                    "another data.holdout, or data.test_share where the folder has no split of its own."
                )
        return splits


def list_pictures(folder: Path) -> Listing:
    """List the files of a folder of classes; of one without a split of its own, the split is "all".

    Raises:
        DataUnavailableError: it is no such folder.
    """
    if not folder.is_dir():
        raise DataUnavailableError(f"data.dir={folder} is {'no folder' if folder.exists() else 'not there'}. {LAYOUTS}")
    split_dirs = _split_dirs(folder)
    classes = {split: _folders(path) for split, path in split_dirs.items()}
    class_names = tuple(sorted({name for names in classes.values() for name in names}))
    _check_classes(folder, class_names, classes)
    found = []
    for split, path in split_dirs.items():
        for label, name in enumerate(class_names):
            files = [
                PictureFile(str(file.relative_to(folder)), *rest)
                for file, *rest in _files(path / name, (os.path.realpath(folder),))
            ]
            if not files:
                raise DataUnavailableError(f"{path / name} has no picture: put some into it, or remove it.")
            found += [(file, split, label) for file in sorted(files)]
    strays = [entry.name for path in {folder, *split_dirs.values()} for entry in _entries(path) if not _is_dir(entry)]
    if strays:
        log.warning("%s: in no class's folder, and not used: %s", folder, _some(strays))
    return Listing(tuple(map(_readable, class_names)), *map(list, zip(*found, strict=True)))


def _split_dirs(folder: Path) -> dict[str, Path]:
    """The folder of each split."""
    inside = _folders(folder)
    if "train" not in inside:
        return {"all": folder}
    others = [name for name in ("val", "test") if name in inside]
    if not others:
        raise DataUnavailableError(
            f"{folder} has train, but neither test nor val. {LAYOUTS} No class may be called train. To have a share "
            f"of the pictures in train as test split: {_setting(folder / 'train')}"
        )
    if unused := [name for name in inside if name not in ("train", *others)]:
        log.warning("%s: beside train and %s, and not used: %s", folder, " and ".join(others), _some(unused))
    names = {"train": "train", "test": others[-1], **({"val": "val"} if len(others) == 2 else {})}
    return {split: folder / name for split, name in names.items()}


def _check_classes(folder: Path, class_names: tuple[str, ...], classes: Mapping[str, list[str]]) -> None:
    for split, names in classes.items():
        if lacking := [name for name in class_names if name not in names]:
            raise DataUnavailableError(
                f"The splits of {folder} have different classes: {split} lacks {_some(lacking)}. Every split needs a "
                "folder for every class."
            )
    if len(class_names) < 2:
        what = f"one class only, {_readable(class_names[0])}" if class_names else "no folders of classes in it"
        nested = f" If these lie deeper: {_setting(folder / class_names[0])}" if class_names else ""
        raise DataUnavailableError(f"{folder} has {what}. {LAYOUTS}{nested}")


def _setting(folder: Path) -> str:
    """The folder as data.dir, as the shell takes it and then Hydra's grammar."""
    escaped = str(folder).replace('"', r"\"")
    return shlex.quote(f'data.dir="{escaped}"')


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.name not in IGNORED and not entry.name.startswith(".")]
    except OSError as error:
        raise DataUnavailableError(f"{folder} cannot be read: {error.strerror}.") from error


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(folder) if _is_dir(entry)]


def _is_dir(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # of a link to itself
        return entry.is_dir()
    return False


def _files(folder: Path, above: tuple[str, ...]) -> Iterator[tuple[Path, int, int]]:
    """Each file below the folder, links followed, with its bytes and when it was modified in ns."""
    above = (*above, os.path.realpath(folder))
    for entry in _entries(folder):
        if _is_dir(entry):
            if os.path.realpath(entry.path) in above:
                raise DataUnavailableError(f"{entry.path} links to a folder that it lies in: remove the link.")
            yield from _files(Path(entry.path), above)
            continue
        try:
            status = entry.stat()
        except OSError as error:
            what = "links to nothing" if entry.is_symlink() else f"cannot be read ({error.strerror})"
            raise DataUnavailableError(f"{entry.path} {what}: take it out of the folder.") from error
        if not entry.is_file():
            raise DataUnavailableError(f"{entry.path} is neither a file nor a folder: take it out of the folder.")
        yield Path(entry.path), status.st_size, status.st_mtime_ns


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(sorted(map(_readable, names))[:MOST_NAMED]) + rest


def _readable(name: str) -> str:
    """A name of any bytes as text that can be written."""
    return os.fsencode(name).decode(errors="backslashreplace")
