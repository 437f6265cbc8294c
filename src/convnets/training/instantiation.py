"""Call the classes that a configuration names. Only this module calls Hydra's `instantiate`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from convnets.configuration.rules import ConfigurationError
from convnets.configuration.shell import installation

# Hydra 1.4 asks which classes may be called. Those of a run's configuration are checked where it is read, by
# `convnets.configuration.targets`; what users write themselves may call anything.
_ANY = getattr(hydra.utils, "UNSAFE_DISABLE_EXECUTION_CHECKS", None)  # not in Hydra 1.3
_OPTIONS: dict[str, Any] = {"_convert_": "all"} | ({"_execution_whitelist_": _ANY} if _ANY is not None else {})


def instantiate(node: DictConfig, **arguments: Any) -> Any:
    """Call the node's `_target_`; return None where it names none.

    Raises:
        ConfigurationError: the target cannot be imported, or refuses its arguments.
    """
    if node.get("_target_") is None:
        return None
    with refusals_explained():
        return hydra.utils.instantiate(node, **arguments, **_OPTIONS)


@contextmanager
def refusals_explained() -> Iterator[None]:
    """Turn the error of a part that refuses its arguments, or lacks a package, into a ConfigurationError.

    Any other error of a part is raised as it is: its traceback says where in the part's code it comes from.
    """
    try:
        yield
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None or str(error).startswith("Error locating target"):
            reason = str(cause or error).splitlines()[0].rstrip(":.")
            raise ConfigurationError(
                f"{reason}: a _target_ is the full name of a class that can be imported (PYTHONPATH=. before "
                "the command: from the current directory)."
            ) from error
        if isinstance(cause, ModuleNotFoundError) and cause.name == "timm":
            raise ConfigurationError(f"model=timm needs the extra `timm`: {installation('timm')}") from error
        if isinstance(cause, (ValueError, TypeError, ImportError, OSError)):
            where = (
                " (Compare the file in conf/ with the class; what the training calls later, such as an optimizer or a "
                "function, needs _partial_: true.)"
                if isinstance(cause, TypeError)
                else ""
            )
            raise ConfigurationError(f"{cause}{where}") from error
        error.__cause__ = error.__context__ = None  # or each of the two would be the other's
        raise cause from None
    except (ValueError, MisconfigurationException) as error:
        raise ConfigurationError(str(error)) from error
