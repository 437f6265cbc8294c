"""Optuna's study as a journal file in the search's folder, held by one search at a time."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial

Direction = Literal["maximize", "minimize"]
ASKED = "asked"  # the study's attribute that says what is searched


class SearchError(RuntimeError):
    """A search cannot begin, or none of its trials ended well; the text says what to do."""


class Journal:
    """The file of a study."""

    def __init__(self, path: Path, study_name: str, direction: Direction) -> None:
        self.path = path
        self.study_name = study_name
        self.direction = direction
        self.storage: JournalStorage

    @contextmanager
    def opened(self, asked: Mapping[str, str]) -> Iterator[Study]:
        """Hold the file, and give the study in it.

        Raises:
            SearchError: another search holds it, or it is of a search for something else.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.parent):
            self._mend()
            self.storage = JournalStorage(JournalFileBackend(str(self.path)))
            study = optuna.create_study(
                storage=self.storage, study_name=self.study_name, direction=self.direction, load_if_exists=True
            )
            self._check_asked(study, asked)
            yield study

    def id_of(self, trial: FrozenTrial) -> int:
        """What the storage calls the trial."""
        study_id = self.storage.get_study_id_from_name(self.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)

    def _mend(self) -> None:
        """Remove what a search that was killed has left: a torn last line, and the lock of its last write."""
        if self.path.exists():
            content = self.path.read_bytes()
            if whole := len(content) - content.rfind(b"\n") - 1:
                os.truncate(self.path, len(content) - whole)
        self.path.with_name(f"{self.path.name}.lock").unlink(missing_ok=True)

    def _check_asked(self, study: Study, asked: Mapping[str, str]) -> None:
        there = study.user_attrs.get(ASKED)
        if there is None:
            study.set_user_attr(ASKED, dict(asked))
        elif differing := sorted(name for name in {*there, *asked} if there.get(name) != asked.get(name)):
            lines = [f"  {name}: {there.get(name)} there, {asked.get(name)} now" for name in differing]
            heading = f"{os.path.relpath(self.path.parent)} holds a search for something else:"
            raise SearchError("\n".join([heading, *lines, "Search in another folder, or remove it."]))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second search out of the folder. The lock is the kernel's: when its holder dies, the folder is free."""
    with (folder / ".search.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            place = os.path.relpath(folder)
            raise SearchError(f"Another search is at work in {place}: wait for it, or search elsewhere.") from None
        yield
