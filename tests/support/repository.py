"""Where the repository is, and its configuration."""

import contextlib
from pathlib import Path

import hydra

import convnets.training.command  # noqa: F401 (registers the functions that conf/ calls)

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"


@contextlib.contextmanager
def hydra_context():
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield
