"""What the commands in scripts/ share: arguments that mean the same everywhere, and errors in words."""

import argparse
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from convnets.configuration.shell import quoted


class Command(argparse.ArgumentParser):
    """A command line, and the start of the command. Imports no torch, so that --help and a typo answer at once.

    Args:
        description: the docstring of the script.
        epilog: is printed below the arguments.
        needs_environment: False where torch alone is enough for the command: without Hydra, errors show tracebacks.
    """

    def __init__(self, description: str | None, epilog: str | None = None, needs_environment: bool = True) -> None:
        super().__init__(description=description, epilog=epilog)
        self._errors_explained: Callable[..., AbstractContextManager[None]] = nullcontext
        try:
            from convnets.configuration.errors import errors_explained

            self._errors_explained = errors_explained
        except ModuleNotFoundError:  # Hydra, by which errors are known
            if needs_environment:
                raise

    def add_run(self, name: str = "run", help: str | None = None) -> None:
        """Take a trained run, by any of the names that `convnets.runs.finding.find_run` knows."""
        help = help or "a run's folder, its name in outputs/, latest, or best:SWEEP"
        self.add_argument(name, metavar=name.upper(), help=help)

    def add_trust(self) -> None:
        """Take names of classes that a run's configuration may call beside those in conf/."""
        self.add_argument(
            "--trust", action="append", default=[], metavar="CLASS", help="a class outside conf/ to be called"
        )

    def add_count(self, name: str, help: str, default: int | None = None) -> None:
        """Take a whole number of at least 1."""
        self.add_argument(name, type=int, default=default, action=_AtLeastOne, help=help)

    def add_overrides(self, help: str, metavar: str = "overrides") -> None:
        """Take overrides of the configuration, and a folder with choices of the user's own, which becomes one too."""
        self.add_argument("overrides", nargs="*", metavar=metavar, help=help)
        self.add_argument(
            "--config-dir",
            type=_search_path,
            default=[],
            metavar="FOLDER",
            help="with choices of your own, laid out as conf/ is",
        )

    def run(self, main: Callable[[argparse.Namespace], int | None]) -> None:
        """Read the arguments, call `main` with them, and end the program with the exit code that it returns (None: 0).

        An error that the user can mend ends it with one message and exit code 1.
        """
        arguments = self.parse_intermixed_args()
        arguments.overrides = [*getattr(arguments, "config_dir", []), *getattr(arguments, "overrides", [])]
        with self._errors_explained(arguments.overrides):
            code = main(arguments)
        sys.exit(code)


class _AtLeastOne(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, value: Any, *_: Any) -> None:
        if value < 1:
            parser.error(f"{self.option_strings[0]} must be at least 1, got {value}")
        setattr(namespace, self.dest, value)


def _search_path(folder: str) -> list[str]:
    """The override with which Hydra looks for choices in the folder too."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {folder}")
    return [f"hydra.searchpath=[{quoted(f'file://{path.absolute()}')}]"]
