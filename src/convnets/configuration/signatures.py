"""The arguments of the classes that a configuration calls, read from their source: nothing is imported."""

import ast
import functools
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Arguments that the project gives itself, that torch has given up, or that only a program's own step can use.
GIVEN = {
    *("self", "params", "optimizer", "image_size", "in_channels", "num_classes", "steps_per_execution"),
    *("save_dir", "purge_step", "weights_digest", "size_average", "reduce", "capturable", "differentiable"),
}


def further_keys(key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the class around a dotted key takes as keys, with their defaults; None where a default is no plain value.

    Args:
        values: the whole configuration, by dotted keys.
    """
    parent = key
    while parent := parent.rpartition(".")[0]:
        if isinstance(target := values.get(f"{parent}._target_"), str):
            return {f"{parent}.{name}": value for name, value in arguments_of(target).items() if name not in GIVEN}
    return {}


def arguments_of(target: str) -> dict[str, Any]:
    """The arguments of a class or a function with their defaults; none where its source is not found."""
    if (found := _definition(target)) is None:
        return {}
    module, node = found
    if isinstance(node, ast.FunctionDef):
        return _parameters(node)
    inits = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
    own = _parameters(inits[-1]) if inits else {}
    if inits and inits[-1].args.kwarg is None:
        return own
    bases = [arguments_of(f"{module}.{ast.unparse(base)}") for base in node.bases]
    return {name: value for arguments in [*bases, own] for name, value in arguments.items()}


def _parameters(function: ast.FunctionDef) -> dict[str, Any]:
    positional = [*function.args.posonlyargs, *function.args.args]
    missing = [None] * (len(positional) - len(function.args.defaults))
    defaults = [*missing, *function.args.defaults, *function.args.kw_defaults]
    names = [each.arg for each in (*positional, *function.args.kwonlyargs)]
    return {name: _plain(default) for name, default in zip(names, defaults, strict=True)}


def _plain(node: ast.expr | None) -> Any:
    """A default as a configuration writes it: numbers are no whole ones, for 0 may stand for 0.0."""
    try:
        value = None if node is None else ast.literal_eval(node)
    except ValueError:
        return None
    if isinstance(value, tuple):
        return list(value)
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _definition(name: str, passed: frozenset[str] = frozenset()) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """The module that defines a class or a function of a dotted name, and the definition.

    Args:
        passed: names that led here; modules that import a name from each other would be gone round for ever.
    """
    module, _, last = name.rpartition(".")
    if not module or (path := path_of(module)) is None or name in passed:
        return None
    for node in reversed(parsed(path, path.stat().st_mtime_ns).body):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == last:
            return module, node
    for origin, names in imports(module, path):
        if {last, "*"} & {*names} and (found := _definition(f"{origin}.{last}", passed | {name})):
            return found
    return None


def path_of(module: str) -> Path | None:
    """The file of a module, None where there is none to read."""
    first, *rest = module.split(".")
    spec = spec_of(first, tuple(sys.path))
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder).joinpath(*rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


@functools.lru_cache(maxsize=512)
def spec_of(package: str, search_path: tuple[str, ...]) -> ModuleSpec | None:
    """Where a top-level package lies, which to find out imports nothing."""
    try:
        return find_spec(package)
    except (ImportError, ValueError):
        return None


def imports(module: str, path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Modules that the file imports, each with the names it takes from there; none for a module as a whole."""
    return _imports(module, path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=512)
def _imports(module: str, path: Path, changed: int) -> list[tuple[str, tuple[str, ...]]]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[tuple[str, tuple[str, ...]]] = []
    for node in ast.walk(parsed(path, changed)):
        if isinstance(node, ast.Import):
            found += [(alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found.append((origin, tuple(alias.name for alias in node.names)))
    return found


@functools.lru_cache(maxsize=512)
def parsed(path: Path, changed: int) -> ast.Module:
    """The syntax tree of a file, as it was at that time."""
    return ast.parse(path.read_bytes())
