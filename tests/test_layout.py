"""The floors of the house: what may import what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "convnets"

# From the bottom up; a module imports only from floors below its own, and from its own room.
FLOORS = [
    {"files", "text"},
    {"plots", "device", "losses", "optimizers", "schedules", "networks", "data"},
    {"configuration", "classifier"},
    {"runs", "callbacks", "dashboard"},
    {"training"},
    {"results", "book", "benchmark"},
]
FLOOR = {name: index for index, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")
MOST_LINES = 350
FACTS = {"book/listings.py"}  # tables, which may be longer


def name_of(path):
    return ".".join(["convnets", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")


def imported(path):
    """The modules of this package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("convnets."))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module and node.module.split(".")[0] == "convnets":
                parts = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (part if part in NAMES else node.module for part in parts)


NAMES = {name_of(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for other in {module.split(".")[1] for module in imported(path)}:
        assert other == own or FLOOR[other] < FLOOR[own], f"{own} imports {other}"


def test_no_two_modules_import_each_other():
    """Within a room, too, and not by way of a third one."""
    waiting = {name_of(path): {*imported(path)} - {name_of(path)} for path in MODULES}
    while free := {name for name, needed in waiting.items() if not needed & waiting.keys()}:
        waiting = {name: needed for name, needed in waiting.items() if name not in free}
    assert not waiting


def test_a_file_holds_one_noun():
    long = {str(path.relative_to(SOURCE)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name for name, lines in long.items() if lines > MOST_LINES} <= FACTS


# Imported one after the other by one process: what a module must not bring in, none before it may.
LIGHT = [
    [("convnets", ("torch", "lightning", "hydra"))],
    [
        ("convnets.configuration.errors", ("torch", "lightning", "matplotlib")),
        ("convnets.training.command", ("torch", "lightning", "matplotlib")),
        ("convnets.runs.run", ("torch", "lightning", "matplotlib")),
        ("convnets.plots", ("lightning", "torch")),
        ("convnets.results.report", ("lightning", "torch")),
        ("convnets.benchmark.contenders", ("lightning", "torch")),
    ],
    [
        ("hydra_plugins.gpu_pool_launcher._pool", ("torch", "convnets", "rich", "hydra")),
        ("hydra_plugins.gpu_pool_launcher.gpu_pool_launcher", ("torch", "convnets", "rich")),
        ("hydra_plugins.optuna_search.optuna_search", ("torch", "convnets", "optuna")),
    ],
    [
        ("convnets.networks", ("lightning", "hydra", "omegaconf")),
        ("convnets.data", ("hydra", "omegaconf")),
    ],
]
IMPORTS = """
import importlib, sys
for module, forbidden in {}:
    importlib.import_module(module)
    print(module, [name for name in forbidden if name in sys.modules])
"""


@pytest.mark.parametrize("modules", LIGHT, ids=lambda modules: modules[-1][0])
def test_a_module_does_not_bring_in(modules):
    command = [sys.executable, "-c", IMPORTS.format(modules)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [f"{module} []" for module, _ in modules]
