"""Commands as a user types them: they work as they stand, from the current directory."""

import difflib
import importlib.metadata
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from convnets.files import typed

_PACKAGE_DIR = Path(__file__).parents[1]
IS_INSTALLED = (_PACKAGE_DIR / "conf").is_dir()  # a wheel carries conf/ and scripts/ within the package
HOME_DIR = _PACKAGE_DIR if IS_INSTALLED else _PACKAGE_DIR.parents[1]  # has conf/ and scripts/
CONFIG_DIR = HOME_DIR / "conf"


def python() -> str:
    """The Python that runs this, as one types it: by its path where `python` is another, or none."""
    found = shutil.which("python")
    is_it = found is not None and Path(found).parent == Path(sys.executable).parent
    return "python" if is_it else typed(Path(sys.executable))


def script(name: str, *words: str) -> str:
    """The command that runs one of scripts/ with these words, which are quoted already: see `typed`, `override`."""
    if IS_INSTALLED:
        program = f"-m convnets.scripts.{name}"
    else:
        path = HOME_DIR / "scripts" / f"{name}.py"
        is_inside = Path.cwd().is_relative_to(HOME_DIR)
        program = shlex.quote(os.path.relpath(path) if is_inside else str(path))
    return " ".join([python(), program, *words])


def installation(extra: str) -> str:
    """The command that installs what an extra needs, in a checkout and beside a wheel alike."""
    needed = [line.partition(";") for line in importlib.metadata.requires("convnets") or []]
    packages = [name.strip() for name, _, marker in needed if re.search(rf"extra == ['\"]{extra}['\"]", marker)]
    return f"{python()} -m pip install {shlex.join(packages)}"


def override(key: str, value: Any) -> str:
    """KEY=VALUE as Hydra's grammar takes it, within the shell."""
    return shlex.quote(f"{key}={_as_hydra_takes(value)}")


def _as_hydra_takes(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(_as_hydra_takes, value))}]"
    if not isinstance(value, str):
        return str(value)
    is_plain = re.fullmatch(r"[A-Za-z/.][A-Za-z0-9._/-]*", value) and re.search("[A-Za-z]", value)
    if is_plain and value.lower() not in ("null", "true", "false", "nan", "inf"):
        return value
    return quoted(value)


def quoted(text: str) -> str:
    """The text between quotes of Hydra's grammar, which it takes for what it is."""
    escaped = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text)
    return f'"{escaped}"'


def nearest_name(word: str, names: Iterable[str]) -> str | None:
    """The name that the word stands for but for a slip or its beginning; None where it may as well be another's."""
    plain = {name.lower(): name for name in names}
    begun = [name for name in sorted(plain) if len(word) > 2 and name.startswith(word.lower())]
    turned = [name for name in plain if sorted(name) == sorted(word.lower())]
    found = turned or begun or difflib.get_close_matches(word.lower(), plain, n=1, cutoff=0.85)
    return plain[found[0]] if found else None
