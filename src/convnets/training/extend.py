"""Continue a run with changes: more epochs, or other values of keys that do not decide its result."""

import shlex
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from convnets.configuration.composition import as_hydra_takes
from convnets.configuration.content import changing_callbacks, content, flatten, to_compose_again
from convnets.configuration.rules import ConfigurationError, check, unknown_key
from convnets.configuration.shell import override, script
from convnets.configuration.signatures import further_keys
from convnets.files import RunFolderError
from convnets.runs.run import Run
from convnets.runs.sources import check_code
from convnets.text import count, duration
from convnets.training.schedule import plans_steps

# Callbacks that do the same whatever the number of epochs.
INDEPENDENT_OF_EPOCHS = ("lightning.pytorch.callbacks.EarlyStopping",)
# Other values of the stored configuration were derived from these when the run began, and do not follow them now.
SOURCES_OF_OTHERS = ("model.lr", "model.weights", "init.from_run")


def extend(run: Run, changes: Sequence[str], retrain: bool = False) -> DictConfig:
    """Return the run's configuration with changes (KEY=VALUE) that do not decide its result, or with more epochs.

    With more epochs, a finished run becomes an unfinished one if its checkpoints were kept. One without checkpoints
    stays as it is, to be trained again: see `convnets.training.retraining`.

    Raises:
        ConfigurationError: a change would make another run of it.
        RunFolderError: the run is finished, its checkpoints were removed, and it is not to be trained again.
    """
    stored = run.config
    config = _changed(stored, changes)
    words = [override(key, value) for key, value in to_compose_again(stored).items()]
    new_run = script("train", *words, override("init.from_run", str(run)))
    way_out = f"To start a new run from its weights: {new_run}"
    old, new = content(stored), content(config)
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    differing += [key for key in SOURCES_OF_OTHERS if OmegaConf.select(config, key) != OmegaConf.select(stored, key)]
    if other := [key for key in differing if key != "trainer.max_epochs"]:
        why = "is what its checkpoints count in" if other[0] == "steps_per_execution" else "decides what is learned"
        raise ConfigurationError(
            f"{other[0]} {why}, so {run} cannot go on with another. {way_out} "
            f"{override(other[0], OmegaConf.select(config, other[0]))}"
        )
    if not differing:
        return config
    epochs, more = old["trainer.max_epochs"], new["trainer.max_epochs"]
    if more < epochs:
        raise ConfigurationError(
            f"trainer.max_epochs={more} is less than the {epochs} of {run}: only more can be added."
        )
    if plans_steps(config.schedule):
        raise ConfigurationError(
            f"The learning rate of {run} was planned for {epochs} epochs ({old['schedule._target_']}), and there is "
            f"none for more. {way_out}"
        )
    callbacks = changing_callbacks(config).items()
    if planned := [name for name, item in callbacks if item["_target_"] not in INDEPENDENT_OF_EPOCHS]:
        raise ConfigurationError(
            f"The callback {planned[0]} of {run} may have been planned for {epochs} epochs, so none can be added. "
            f"{way_out}"
        )
    with run.locked():
        check_code(run.path, config)
        from_the_start = run.result and not (run.path / "checkpoints" / "last.ckpt").exists()
        if from_the_start and not retrain:
            seconds = run.result["seconds"] / run.epoch * more
            command = " ".join([run.resume_command(), *map(shlex.quote, changes), "--retrain"])
            raise RunFolderError(
                f"{run} is finished, and its checkpoints were removed: its {count(run.epoch, 'epoch')} would be "
                f"trained again to the same bits, and {more - epochs} more, in about {duration(seconds)} by what they "
                f"took. To do so: {command}\n{way_out}"
            )
        config.expected = None  # the published accuracy was that of the shorter training
        config["changes"] = sorted({*config.get("changes", []), "trainer.max_epochs"})
        if not from_the_start:
            run.reopen(config)
    return config


def _changed(stored: DictConfig, changes: Sequence[str]) -> DictConfig:
    """Apply KEY=VALUE words, whose values are read and checked as those of train.py.

    Raises:
        ConfigurationError: a word cannot be read, or its key or value is wrong.
    """
    config = stored.copy()
    OmegaConf.set_struct(config, True)  # an unknown key is an error
    for word in changes:
        key, separator, text = word.partition("=")
        if not separator:
            raise ConfigurationError(f"{word!r} is no KEY=VALUE.")
        try:
            parsed = OverridesParser.create().parse_override(as_hydra_takes(word))
            if parsed.is_sweep_override():
                raise HydraException
        except HydraException:
            raise ConfigurationError(f"{key} cannot be set to {text!r}: it is no value.") from None
        try:
            OmegaConf.update(config, key, parsed.value())
        except OmegaConfBaseException:
            values = flatten(OmegaConf.to_container(stored))
            if key not in (further := further_keys(key, values)):
                raise ConfigurationError(unknown_key(key, values | further)) from None
            OmegaConf.update(config, key, parsed.value(), force_add=True)
    plain: Any = OmegaConf.to_container(config)
    check(plain, OmegaConf.to_container(stored))  # type: ignore[arg-type]
    return OmegaConf.create(plain)
