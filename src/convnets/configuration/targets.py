"""Which classes a configuration may call."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from convnets.configuration.rules import ConfigurationError
from convnets.configuration.shell import CONFIG_DIR


def check_targets(config: Any, trusted: Sequence[str], source: str) -> None:
    """Refuse a configuration that comes from a run's folder, where it would call what conf/ does not.

    Only the very names in conf/ are allowed: harmless-looking functions of any installed package can run planted code.

    Raises:
        ConfigurationError: a target is neither in conf/ nor trusted.
    """
    allowed = [*shipped_targets(), *trusted, None]
    refused = {key: value for key, value in nodes(config) if key.endswith("_target_") and value not in allowed}
    for key, value in refused.items():
        raise ConfigurationError(
            f"{source} calls {value!r} ({key}), which no file in {CONFIG_DIR} does, so nothing was called. If you "
            f"know who wrote it: {' '.join(f'--trust {name}' for name in refused.values())}"
        )
    for key, value in nodes(config):
        if isinstance(value, str) and "${" in value:  # which may make a mapping with a target, in a list too
            raise ConfigurationError(f"{source} is not resolved: {key}={value}. A run's own configuration is.")


def nodes(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Everything inside nested mappings and lists, and these themselves, each with its dotted key."""
    yield key, node
    children = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for name, child in children:
        yield from nodes(child, f"{key}.{name}" if key else str(name))


@functools.cache
def shipped_targets() -> frozenset[str]:
    """Every `_target_` in conf/ that a run's configuration may hold."""
    files = [yaml.safe_load(path.read_text()) for path in CONFIG_DIR.rglob("*.yaml")]
    items = [item for file in files for item in nodes(file or {})]
    targets = [value for key, value in items if key.endswith("_target_") and not key.startswith("hydra.")]
    return frozenset(target for target in targets if target is not None)
