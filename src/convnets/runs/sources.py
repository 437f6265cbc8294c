"""The source code of a training, by digests: a result of other code is never taken for one of this code.

Modules are read as text and never imported, wherever the classes that a configuration calls are.
"""

import ast
import functools
import hashlib
import json
import logging
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convnets.configuration.composition import GROUPS
from convnets.configuration.content import changing_callbacks
from convnets.configuration.signatures import imports, parsed, path_of, spec_of
from convnets.configuration.targets import nodes
from convnets.files import RunFolderError, read_json, removal, shown, write_atomically

log = logging.getLogger(__name__)
RECORD = "code.json"  # in a run's folder
# What every training goes through here, beside what its configuration calls.
ALWAYS = (
    *("convnets.callbacks.initialization", "convnets.callbacks.steps", "convnets.classifier"),
    *("convnets.networks.head", "convnets.networks.lazy"),
    *("convnets.training.building", "convnets.training.instantiation", "convnets.training.schedule"),
)
PARTS = GROUPS[:-1]  # callbacks apart
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()
# Of released packages a result records the version.
WELL_KNOWN = ("torch", "torchvision", "lightning", "torchmetrics", "hydra", "omegaconf", "timm")


def training_sources(config: Mapping[str, Any]) -> dict[str, str]:
    """Every module that decides what a training of the configuration learns, with a digest of its code.

    These are the modules that the configuration calls, what they import of their own package, and the modules of the
    training step. Comments, docstrings and layout make no difference to a digest.
    """
    parts = [*(config.get(part) or {} for part in PARTS), *changing_callbacks(config).values()]
    found: dict[str, Path] = {}
    for key, target in nodes(parts):
        is_target = key.endswith("._target_") and isinstance(target, str)
        if is_target and target.partition(".")[0] not in WELL_KNOWN and (defined := _defining_module(target)):
            _follow(*defined, found)
    for name in ALWAYS:
        if path := path_of(name):
            found[name] = path
    return {name: digest(path) for name, path in sorted(found.items())}


def record_code(run_dir: Path, config: Mapping[str, Any], goes_on: bool) -> None:
    """Write code.json: the modules of the training with their digests, and those of the parts before a resume."""
    record: dict[str, Any] = {"modules": training_sources(config)}
    if goes_on:
        others = [part for part in _parts(read_json(run_dir / RECORD)) if part != record["modules"]]
        record |= {"earlier": others} if others else {}
    write_atomically(run_dir / RECORD, json.dumps(record, indent=2) + "\n")


def changed_sources(run_dir: Path, config: Mapping[str, Any]) -> list[str]:
    """The modules whose code has changed since the run in the folder was trained."""
    current, recorded = training_sources(config), _parts(read_json(run_dir / RECORD))
    names = sorted({*current, *(name for part in recorded for name in part)})
    return [name for name in names if any(part.get(name) != current.get(name) for part in recorded)]


def _parts(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """The modules of each part of a training, where a resume went on by other code."""
    return [*record.get("earlier", []), record.get("modules", {})]


def check_code(run_dir: Path, config: Mapping[str, Any]) -> None:
    """Refuse to take a run of other code for one of this code; only say so where the configuration ignores it.

    Raises:
        RunFolderError: the code of its training has changed since.
    """
    if not (changed := changed_sources(run_dir, config)):
        return
    what = ", ".join(changed) if (run_dir / RECORD).exists() else f"it has no {RECORD} to say by which"
    if config.get("ignore_code_changes"):
        log.warning("%s is of other code than there is now (%s), which is ignored.", shown(run_dir), what)
        return
    raise RunFolderError(
        f"{shown(run_dir)} is of other code than there is now: {what}. To train by this code, beside it: add "
        "run_name=NAME to train.py's command (of a sweep: sweep_name=NAME); in its place: "
        f"{removal(run_dir)}. Where the difference does not matter: add ignore_code_changes=true."
    )


def _defining_module(name: str, passed: frozenset[str] = frozenset()) -> tuple[str, Path] | None:
    """The module in which a dotted name is defined: not the package that passes it on.

    Args:
        passed: names that led here; modules that import a name from each other would be gone round for ever.
    """
    if path := path_of(name):
        return name, path
    module, _, last = name.rpartition(".")
    while module:
        if path := path_of(module):
            for origin, names in imports(module, path):
                further = f"{origin}.{last}"
                if last not in names or origin == module or further in passed:
                    continue
                if deeper := _defining_module(further, passed | {name}):
                    return deeper
            return module, path
        module, _, last = module.rpartition(".")
    return None


def _follow(module: str, path: Path, found: dict[str, Path]) -> None:
    """Add the module, and what it imports of its own package and of the user's other files."""
    if module in found:
        return
    found[module] = path
    for origin, names in imports(module, path):
        same_package = origin.partition(".")[0] == module.partition(".")[0]
        if not (same_package or origin.startswith("convnets.") or _is_users(origin)):
            continue
        for name in [f"{origin}.{name}" for name in names] or [origin]:
            if defined := _defining_module(name):
                _follow(*defined, found)


def _is_users(module: str) -> bool:
    """Whether it is neither of the standard library nor of an installed package."""
    spec = spec_of(module.partition(".")[0], tuple(sys.path))
    places = [*(spec.submodule_search_locations or ()), spec.origin] if spec else []
    path = next((Path(place).resolve() for place in places if place), STANDARD_LIBRARY)
    installed = {"site-packages", "dist-packages"} & {*path.parts} or _is_recorded(path)
    return not (installed or path.is_relative_to(STANDARD_LIBRARY) or path.name in ("built-in", "frozen"))


@functools.cache
def _is_recorded(package: Path) -> bool:
    """Whether pip put it into its folder, as `pip install --target` does into any."""
    names = (f"{package.name}/", f"{package.name},")
    records = package.parent.glob("*.dist-info/RECORD")
    return any(line.startswith(names) for record in records for line in record.read_text().splitlines())


def digest(path: Path) -> str:
    """Sixteen hexadecimal digits of a file's code; of a file that is no Python, of its bytes."""
    return _digest(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=512)
def _digest(path: Path, changed: int) -> str:
    try:
        code = repr(_essence(parsed(path, changed)))
    except SyntaxError:
        code = path.read_text(errors="replace")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _essence(node: Any) -> Any:
    """A syntax tree as nested tuples, without docstrings and what is empty: the same in every version of Python."""
    if isinstance(node, list):
        return tuple(_essence(child) for child in node)
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            fields["body"] = node.body[1:]
    kept = {name: value for name, value in fields.items() if value not in (None, []) or name == "value"}
    kept.pop("kind", None)  # of a string: u"..."
    return type(node).__name__, *((name, _essence(value)) for name, value in kept.items())
