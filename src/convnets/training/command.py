"""The start of a training, step by step: compose, check, name, train. Imports torch only to train."""

import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import hydra
import omegaconf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from convnets.configuration.composition import (
    CONFIG_NAME,
    GROUPS,
    VERSION,
    adding_keys,
    as_hydra_takes,
    checked,
    choices_made,
    choices_of,
    config_dirs,
    recompose,
    resolve,
)
from convnets.configuration.content import COMPUTATION, NOT_RECIPE, TIMM, content_hash, differences
from convnets.configuration.errors import USERS_WISH, errors_explained, wants_traceback
from convnets.configuration.naming import run_name, sweep_name
from convnets.configuration.rules import ConfigurationError
from convnets.configuration.shell import CONFIG_DIR, script
from convnets.files import RunFolderError, file_digest, typed
from convnets.runs.durations import known_seconds
from convnets.runs.finding import RUNS_DIR, find_run
from convnets.runs.run import Run
from convnets.runs.sources import check_code


def prepare(root: DictConfig) -> tuple[dict[str, Any], str]:
    """Check what Hydra composed, note what the run is to remember, and name the run.

    Remembered are the choices of groups, the keys that were set otherwise than these have them, the number of the
    code's computation, and the checksum of the weights that it starts from.

    Returns:
        The resolved configuration that a run is trained by and keeps, and the run's name.

    Raises:
        ConfigurationError: a key or a value is wrong.
    """
    config, reference = checked(root)
    if isinstance(folder := config["data"].get("dir"), str):
        config["data"]["dir"] = os.path.normpath(Path(folder).absolute())  # the same in any current directory
    if (source := config["init"].get("from_run")) is not None:
        config["init"].update(_weights_to_start_from(source))
    if config["model"]["_target_"] == TIMM and (path := config["model"].get("weights")) is not None:
        config["model"].update(_weights_of_file(path))
    choices = choices_made(root.hydra)
    chosen = resolve(recompose(root.hydra, {group: choices[group] for group in GROUPS}), complete=False)
    changes = sorted(differences(config, chosen))
    config.update(choices=choices, changes=changes, computation=COMPUTATION)
    return config, run_name(root, config, reference)


def _weights_to_start_from(run: str) -> dict[str, str]:
    """The other run's folder and the checksum of its weights, as keys of `init`."""
    try:
        folder = find_run(run).absolute()
    except RunFolderError as error:
        raise ConfigurationError(f"init.from_run={run}: {error}") from None
    path = folder / "weights.safetensors"
    try:
        digest = file_digest(path)
    except OSError:
        raise ConfigurationError(
            f"init.from_run={run} has no {path.name}: give the folder of a finished run."
        ) from None
    return {"from_run": str(folder), "weights": digest}


def _weights_of_file(path: str) -> dict[str, str]:
    """A file of weights and its checksum, as keys of `model`."""
    try:
        return {"weights": str(Path(path).absolute()), "weights_digest": file_digest(Path(path))}
    except OSError as error:
        raise ConfigurationError(f"model.weights={path} cannot be read: {error.strerror}.") from None


def expected_band(config: Mapping[str, Any], hydra_config: DictConfig) -> list[float] | None:
    """The published accuracy of this very recipe, whatever its seed and device: the chosen experiment's, or the book's.

    None where the configuration differs from the experiment in anything else, so that nothing is compared with a
    result of another recipe.
    """
    experiment = choices_made(hydra_config).get("experiment") or f"book/{config['model']['name']}"
    try:
        published = resolve(recompose(hydra_config, {"experiment": experiment}), complete=False)
    except MissingConfigException:
        return None
    return published["expected"] if set(differences(config, published)) <= NOT_RECIPE else None


def compose(overrides: Sequence[str]) -> tuple[DictConfig, str]:
    """Compose and check outside of a Hydra application: the resolved configuration, and the name of its run's folder.

    Raises:
        ConfigurationError: a key or a value is wrong.
    """
    with hydra.initialize_config_dir(str(CONFIG_DIR), **VERSION):
        root = hydra.compose(CONFIG_NAME, adding_keys([*map(_as_hydra_takes, overrides)]), return_hydra_config=True)
        config, name = prepare(root)
        config["expected"] = expected_band(config, root.hydra)
    return OmegaConf.create(config), name


def main(task: Callable[[DictConfig, Path], Any]) -> Callable[[], Any]:
    """Make a Hydra application of task(config, run_dir): Hydra composes, this checks and names, the task trains.

    Hydra asks for the name, `hydra.run.dir`, before it calls anything: so the check comes before that, in `prepare`.
    """
    words = sys.argv[1:]

    @functools.wraps(task)
    def start(composed: DictConfig) -> Any:
        hydra_config: Any = HydraConfig.get()
        # Here too, or Hydra adds a line of its own; but a sweep's jobs in one process must not end it.
        with nullcontext() if _within_a_sweep(hydra_config) else errors_explained(words):
            root = composed.copy()
            OmegaConf.set_struct(root, False)
            root.hydra = hydra_config
            config, _ = prepare(root)
            _refuse_processes_in_a_sweep(config, hydra_config)
            config["expected"] = expected_band(config, hydra_config)
            return task(OmegaConf.create(config), Path(hydra_config.runtime.output_dir))

    def run() -> Any:
        with errors_explained(words):
            os.environ[USERS_WISH] = "1" if wants_traceback() else "0"  # for the processes started from here
            sys.argv[1:] = adding_keys([*map(_as_hydra_takes, sys.argv[1:])])
            os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints the error and exits by itself
            return hydra.main(**VERSION, config_path=str(CONFIG_DIR), config_name=CONFIG_NAME)(start)()

    return run


def _as_hydra_takes(word: str) -> str:
    """The override as Hydra's grammar takes it, `latest` replaced: that is another run once this one has begun."""
    if word.startswith("init.from_run="):
        return as_hydra_takes(word, _absolute)
    return as_hydra_takes(word)


def _absolute(run: str) -> str:
    with suppress(RunFolderError):  # which `prepare` says with the key
        return str(find_run(run).absolute()) if run not in ("", "null") else run
    return run


def _within_a_sweep(hydra_config: DictConfig) -> bool:
    """Whether the launcher of a sweep called the task, and not a command of its own."""
    return not OmegaConf.is_missing(hydra_config.job, "num")


def _refuse_processes_in_a_sweep(config: Mapping[str, Any], hydra_config: DictConfig) -> None:
    """A training in several processes starts the program's command again: in a sweep that is not one job's, but all."""
    trainer = config["trainer"]
    within = _within_a_sweep(hydra_config)
    if within and "SLURM_NTASKS" not in os.environ and (trainer["devices"] != 1 or trainer["strategy"] != "auto"):
        raise ConfigurationError(
            f"trainer.devices={trainer['devices']} with trainer.strategy={trainer['strategy']} starts processes that "
            "would train other jobs of this sweep, whose launcher runs them within a process: set launcher=gpu_pool."
        )


def _run_folder(root: DictConfig) -> str:
    """The name of a run's folder: an existing one's with the same content, however that was written, or a new one."""
    config, name = prepare(root)
    parent = Path(root.hydra.sweep.dir) if _within_a_sweep(root.hydra) else RUNS_DIR
    if config["run_name"] is None:
        name = next((path.name for path in sorted(parent.glob(f"*-{name.rpartition('-')[2]}"))), name)
    return name


def _finished_file(root: DictConfig) -> str | None:
    """The file that says that a job was done before; None where its folder holds a run of another configuration.

    Asked for a job, refuse a run of other code than there is now.

    Raises:
        RunFolderError: see `check_code`.
    """
    if _within_a_sweep(root.hydra):
        folder = Path(root.hydra.sweep.dir) / root.hydra.sweep.subdir
        if (folder / "result.json").exists():
            config, _ = prepare(root)
            if differences(Run(folder).stored_config, config):
                return None
            check_code(folder, config)
    return "result.json"


def _run_content(root: DictConfig) -> str | None:
    """What is the same for jobs that train the same thing; None where it is no job's configuration."""
    return content_hash(prepare(root)[0]) if _within_a_sweep(root.hydra) else None


def _gpus_of_a_job(accelerator: str, cluster: str | None) -> int | None:
    """How many GPUs a job asks a cluster for: one; none if it computes on the CPU, or no GPU is in this machine.

    Args:
        cluster: an address, if the jobs run elsewhere.
    """
    from hydra_plugins.gpu_pool_launcher._slots import find_gpus

    return 1 if accelerator != "cpu" and (cluster is not None or find_gpus(os.environ)) else None


def _listed(names: Sequence[str]) -> str:
    """The names, but of a folder with more than ten only how many: a wrong name is answered with all of them."""
    folders = Counter(name.rpartition("/")[0] for name in names)
    long = [folder for folder, number in folders.items() if folder and number > 10]
    short = [name for name in names if name.rpartition("/")[0] not in long]
    return ", ".join([*short, *(f"{folder}/NAME ({folders[folder]} of them)" for folder in long)])


# The functions that conf/ calls. They are registered where this module is imported: so do the processes of a cluster.
RESOLVERS: dict[str, Callable[..., Any]] = {
    "choices": lambda group: _listed(choices_of(group, config_dirs(sys.argv[1:]))),
    "finished_file": lambda *, _root_: _finished_file(_root_),
    "gpus_of_a_job": _gpus_of_a_job,
    "known_seconds": lambda *, _root_: known_seconds(resolve(_root_)),
    "report_command": lambda sweep_dir: script("report", typed(Path(sweep_dir))),
    "run_content": lambda *, _root_: _run_content(_root_),
    "run_folder": lambda *, _root_: _run_folder(_root_),
    "script": script,
    "several": lambda devices: devices != 1,
}
# In OmegaConf 2.4 it has the name that up to 2.3 an older, deprecated function has.
_register: Any = getattr(OmegaConf, f"register{'_new' if omegaconf.__version__ < '2.4' else ''}_resolver")
for name, function in RESOLVERS.items():
    _register(name, function, replace=True)
# Cached, so that the jobs of a sweep inherit the name that its own overrides gave.
_register("sweep_folder", sweep_name, use_cache=True, replace=True)
