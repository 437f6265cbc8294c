"""Errors in words: one message for what a user did, a traceback for the rest."""

import errno
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from convnets.configuration.composition import CONFIG_NAME, VERSION, choices_of, config_dirs
from convnets.configuration.content import flatten
from convnets.configuration.rules import unknown_key
from convnets.configuration.shell import CONFIG_DIR, installation, nearest_name, quoted

USERS_WISH = "CONVNETS_TRACEBACKS"  # HYDRA_FULL_ERROR as the user set it: `main` sets it for itself
EXTRAS = {"hydra/launcher/ray": "ray", "hydra/launcher/submitit_slurm": "slurm"}  # what installs them
CANNOT_WRITE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC, errno.EDQUOT)


def wants_traceback() -> bool:
    """Whether the user asks for tracebacks: HYDRA_FULL_ERROR=1."""
    asked = os.environ.get(USERS_WISH, os.environ.get("HYDRA_FULL_ERROR", "0"))
    return asked not in ("", "0")


@contextmanager
def errors_explained(overrides: Sequence[str] = ()) -> Iterator[None]:
    """End the program with one message, where a class of ours or Hydra's explains the error.

    Another error shows its traceback, and so does every error where the user asks for that.

    Args:
        overrides: of the command line, if the command takes any.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        sys.exit("The current directory was deleted: change to another.")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # what reads our output, such as head, has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails once more at its end
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        message = None if wants_traceback() else explain(error, overrides)
        if message is None:
            raise
        print(message, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)


def explain(error: BaseException, overrides: Sequence[str]) -> str | None:
    """One message for what a user did; None for what only a traceback explains."""
    if type(error).__module__ == "ray.exceptions":
        if not isinstance(cause_there := getattr(error, "cause", None), BaseException):
            return f"{type(error).__name__}: {error}"
        error = cause_there
    cause: BaseException | None = error
    while cause is not None:  # resolvers and Hydra wrap what they meet
        if type(cause).__module__.startswith(("convnets.", "hydra_plugins.")):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, MissingConfigException) and (extra := EXTRAS.get(error.missing_cfg_file or "")):
        return f"launcher={extra} needs the extra `{extra}`: {installation(extra)}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.partition("/")
        choices = choices_of(group, config_dirs(overrides))
        nearest = nearest_name(choice, choices)
        hint = f" Did you mean {group}={nearest}?" if nearest else ""
        return f"There is no {group}={choice}.{hint} Choices: {', '.join(choices)}."
    if isinstance(error, ValueError) and str(error).startswith("Config group override"):  # of Hydra, for model=5
        groups = [word for word in overrides if (CONFIG_DIR / word.partition("=")[0]).is_dir()]
        return f"{' '.join(groups)}: a group takes the name of one of its choices, which --help lists."
    if isinstance(error, OSError) and error.errno in CANNOT_WRITE and error.filename:
        return f"{error.filename} cannot be written: {error.strerror}. Start from a folder that can be."
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}."
    if isinstance(error, ConfigCompositionException):
        unknown = error.__cause__
        if isinstance(unknown, (ConfigKeyError, ConfigAttributeError)) and unknown.full_key:
            return unknown_key(unknown.full_key, _known_keys(unknown.full_key, overrides))
        if match := re.search(r"Could not override '([^']+)'", str(error)):
            where = f"{match_file[0]}: " if (match_file := re.match(r"In '[^']+'", str(error))) else ""
            return where + unknown_key(match[1], _known_keys(match[1], overrides))
    if isinstance(error, OverrideParseException):
        return _refused_override(str(error.override))
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return str(error.__cause__)  # Hydra's own text repeats it
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        reasons = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
        return "\n".join(reasons)
    return None


def _refused_override(word: str) -> str:
    key, separator, value = word.partition("=")
    if separator and re.fullmatch(r"\+{0,2}[A-Za-z_][A-Za-z0-9_./@:-]*", key):
        return (
            f"The value in {word} cannot be read: its brackets and quotes must be balanced. If it is a text, write "
            f"{shlex.quote(f'{key}={quoted(value)}')}"
        )
    return f"{word!r} is no override: write KEY=VALUE or GROUP=CHOICE, without spaces around the sign."


def _known_keys(key: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Every key under the choices of groups on the command line: Hydra's for one of Hydra's, else ours."""
    of_hydra = key.startswith("hydra.")
    words = [word for word in overrides if re.fullmatch(r"[\w/]+=[\w./-]+", word)]
    folders = config_dirs(overrides)
    choices = [word for word in words if word.partition("=")[2] in choices_of(word.partition("=")[0], folders)]
    further = [quoted(f"file://{folder.expanduser().absolute()}") for folder in folders[1:]]
    choices += [f"hydra.searchpath=[{','.join(further)}]"] if further else []
    with hydra.initialize_config_dir(str(CONFIG_DIR), **VERSION):
        try:
            composed = hydra.compose(CONFIG_NAME, choices, return_hydra_config=of_hydra)
        except HydraException:  # the mistake is in a chosen file
            composed = hydra.compose(CONFIG_NAME, return_hydra_config=of_hydra)
    keys = OmegaConf.to_container(composed)
    assert isinstance(keys, dict)
    if of_hydra:
        return flatten({"hydra": keys["hydra"]})
    return {**flatten(keys), **{path.name: None for path in CONFIG_DIR.iterdir() if path.is_dir()}}
