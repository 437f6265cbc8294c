"""Where the repository is, and its configuration."""

import contextlib
from pathlib import Path

import hydra

from convnets.training.command import register_resolvers

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"


@contextlib.contextmanager
def hydra_context():
    register_resolvers()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield
