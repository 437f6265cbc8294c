import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "convnets"

# Floors from the bottom up; a module imports only from floors below its own (and from its own package).
FLOORS = [
    {"commands", "atomic"},
    {"folder", "content"},
    {"finding", "sources", "networks", "data", "classifier", "plots", "memory", "significance"},
    {"configuration"},
    {"callbacks", "sweeps", "schedule", "last_batch"},
    {"building"},
    {"runs", "records"},
    {"training", "prediction", "export", "leaderboard", "disk", "board"},
    {"evaluation", "soak", "report"},
    {"book", "page", "benchmark"},
]
FLOOR = {name: index for index, names in enumerate(FLOORS) for name in names}
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def imported(path):
    """First parts of the convnets modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
        yield from (name.split(".")[1] for name in names if name.startswith("convnets."))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for other in imported(path):
        assert other == own or FLOOR[other] < FLOOR[own], f"{own} imports {other}"


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("convnets", ("torch", "lightning", "hydra")),
        ("convnets.configuration.composition", ("torch", "lightning", "matplotlib")),
        ("convnets.runs.finding", ("torch", "lightning", "matplotlib")),
        ("convnets.configuration.naming", ("torch", "lightning", "matplotlib")),
        ("hydra_plugins.gpu_pool_launcher.gpu_pool_launcher", ("torch", "convnets", "rich")),
        ("hydra_plugins.optuna_search.optuna_search", ("torch", "convnets", "optuna")),
        ("hydra_plugins.gpu_pool_launcher._pool", ("torch", "convnets", "rich", "hydra")),
        ("convnets.networks", ("lightning", "hydra", "omegaconf")),
        ("convnets.data", ("hydra", "omegaconf")),
        ("convnets.plots", ("lightning", "torch")),
        ("convnets.results.report", ("lightning", "torch")),
        ("convnets.benchmark.contenders", ("lightning", "torch")),
    ],
)
def test_a_module_does_not_bring_in(module, forbidden):
    program = f"import {module}, sys; print([name for name in {forbidden} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
