"""Where the repository is, and its configuration."""

import contextlib
from pathlib import Path

import hydra

import convnets.training.command  # noqa: F401 (registers the functions that conf/ calls)
from convnets.configuration.composition import VERSION

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"


@contextlib.contextmanager
def hydra_context():
    with hydra.initialize_config_dir(str(CONF), **VERSION):
        yield
