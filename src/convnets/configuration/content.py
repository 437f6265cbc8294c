"""The content of a configuration: what decides the result of its training. Knows no torch.

Two configurations of the same content are one run, two of different content are never taken for each other, however
their values were written.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

# Raise it when a change of the code moves the golden numbers in tests/: runs from before are then never taken for runs
# of the code as it is.
COMPUTATION = 1
# Keys that do not decide a result: names, places, and what the configuration says about itself.
NOT_CONTENT = (
    *("run_name", "sweep_name", "ignore_code_changes", "choices", "changes", "expected"),
    *("checkpoint", "logger", "data.device", "model.name", "model.image_size"),
    *("data.bad_files", "data.cache_dir"),  # a training on a folder where files are bad, too, is on the others alone
)
# Callbacks that only watch. Any other may stop, average or change a training, so its arguments are content.
_DASHBOARD = ("Curves", "Dashboard", "Norms", "Throughput")
WATCHERS = {
    *("convnets.callbacks.Progress", "convnets.callbacks.TimeEstimate"),
    *(f"convnets.dashboard.{name}" for name in _DASHBOARD),
}
# Classes that had another name in the first runs.
MOVED = {f"convnets.callbacks.{name}": f"convnets.dashboard.{name}" for name in _DASHBOARD}
# Keys that may differ between runs of one recipe: seeds, folds, the devices, and what changes no bit.
NOT_RECIPE = {
    *(
        "seed",
        "data.seed",
        "data.fold",
        "trainer.accelerator",
        "trainer.devices",
        "trainer.num_nodes",
        "trainer.strategy",
    ),
    *("trainer.sync_batchnorm", "steps_per_execution"),
}
# Values that mean the same as none at all.
NO_VALUE: Mapping[str, Any] = {
    "compile": False,
    "computation": 1,
    "data.fold": 0,
    "data.mix": "none",
    "data.normalize": "none",
    "loss._target_": "torch.nn.CrossEntropyLoss",
    "model.decayed": "all",
    "optimizer.fused": False,
    "schedule.monitor": "val/loss",
    "steps_per_execution": 1,
    "test_time_augmentation": "none",
    "trainer.accelerator": "auto",
    "trainer.check_val_every_n_epoch": 1,
    "trainer.matmul_precision": "high",
}
# The same for the options of a network or loss, by its target: what runs mean that lack them.
_RESNET = {"stem": "book", "norm": "batch", "activation": "relu", "preactivation": False}
_LENET = {
    **{"activation": "sigmoid", "channels": [6, 16], "kernel_size": 5, "hidden": [120, 84]},
    **{"padding": "half", "pooling": "avg", "norm": "none"},
}
NO_OPTION: Mapping[str, Mapping[str, Any]] = {
    "convnets.networks.LeNet": _LENET,
    "convnets.networks.VGG": {"norm": "none", "activation": "relu", "hidden": [4096, 4096]},
    "convnets.networks.ResNet": {**_RESNET, "bottleneck_ratio": "none"},
    "convnets.networks.RegNet": {"group_width": 16},
    "convnets.networks.ResNet18": _RESNET,
    "convnets.networks.ResNeXt18": {**_RESNET, "num_groups": 32},
    "convnets.networks.timm.create": {"pretrained": False},
    "torch.nn.CrossEntropyLoss": {"label_smoothing": 0},
}
# Data sets whose bytes are verified, so that their folder decides nothing. The folder of any other set is content.
VERIFIED = ("convnets.data.FashionMNISTDataModule", "convnets.data.FashionMNISTSampleDataModule")
CHECKSUMS = {"init.weights": "init.from_run", "model.weights_digest": "model.weights"}  # and what they are of
TIMM = "convnets.networks.timm.create"
VERIFIED_SETS = {("convnets.data.TorchvisionDataModule", name) for name in ("cifar10", "cifar100", "svhn")}
LIMITS = tuple(f"trainer.limit_{stage}_batches" for stage in ("train", "val", "test"))  # where 1 is no share


def content(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys, dotted, that decide what the resolved configuration's training learns and reports.

    Each value stands in one form: 1.0 is 1, and what means the same as nothing is left out.
    """
    meant = meanings(config)
    no_value = _no_value(meant)
    values = {
        key: value for key, value in meant.items() if value is not None and value != {} and value != no_value.get(key)
    }
    if not (values.get("data.holdout") or values.get("data.folds")):  # none are chosen, and the test split validates
        if "data.test_share" not in values:  # which the seed divides as well
            values.pop("data.split_seed", None)
        values.pop("data.fold", None)
        values.pop("trainer.limit_test_batches", None)
    if (values.get("trainer.devices"), values.get("trainer.num_nodes", 1)) == (1, 1):
        values.pop("trainer.strategy", None)
        values.pop("trainer.sync_batchnorm", None)
    elif values.get("trainer.strategy") == "auto":
        values["trainer.strategy"] = "ddp"  # which Lightning takes for several processes
    if values.get("trainer.accelerator") == "cpu":
        values.pop("trainer.sync_batchnorm", None)
        values.pop("trainer.matmul_precision", None)
    if values.get("schedule.interval") == _usual_interval(values):
        del values["schedule.interval"]
    return values


def holds_out(config: Mapping[str, Any]) -> bool:
    """Whether training images are kept for validation. If not, the test split validates."""
    return bool(config["data"]["holdout"] or config["data"].get("folds"))


def _no_value(meant: Mapping[str, Any]) -> dict[str, Any]:
    """The values that mean the same as none at all in a configuration with this network and loss."""
    options = {group: NO_OPTION.get(str(meant.get(f"{group}._target_")), {}) for group in ("model", "loss")}
    return {**NO_VALUE, **{f"{group}.{name}": v for group, found in options.items() for name, v in found.items()}}


def meanings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every key that may decide the result, with its value in one form, None included."""
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    config = {**config, "callbacks": changing_callbacks(config)}
    flat = {key: _one_form(key, value) for key, value in flatten(config).items()}
    # The optimizer's rate is the rate, whether model.lr gave it or not; one cycle has a rate of its own.
    rates = ["optimizer.lr"]
    if flat.get("schedule._target_") == "torch.optim.lr_scheduler.OneCycleLR":
        rates.append("schedule.max_lr")
    for key in rates:
        if key in flat:
            flat["model.lr"] = flat.pop(key)
    data = flat.get("data._target_")
    if data in VERIFIED or (data, flat.get("data.set")) in VERIFIED_SETS:
        flat.pop("data.dir", None)
    elif isinstance(folder := flat.get("data.dir"), str):
        flat["data.dir"] = str(Path(folder).expanduser().absolute())
    for checksum, key in CHECKSUMS.items():
        if flat.get(checksum) is not None:  # which says more than where the weights are
            flat.pop(key, None)
    return {
        key: value
        for key, value in flat.items()
        if not is_part_of(key, NOT_CONTENT) and key.rpartition(".")[2] != "_partial_"
    }


def _usual_interval(values: Mapping[str, Any]) -> str:
    """What a scheduler's step is where its file does not say; see `convnets.training.schedule`."""
    by_the_step = str(values.get("schedule._target_")).rpartition(".")[2] in ("OneCycleLR", "CyclicLR")
    return "step" if "schedule.steps_argument" in values or by_the_step else "epoch"


def changing_callbacks(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration's callbacks that do more than watch, by their names in it."""
    items = (config.get("callbacks") or {}).items()
    return {name: item for name, item in items if item and item.get("_target_") not in WATCHERS}


def _one_form(key: str, value: Any) -> Any:
    """1.0 and 1 are one number, but for a limit, where they are all batches and one batch; a list of one is the one."""
    if key in LIMITS and isinstance(value, float):
        return None if value == 1 else value
    if key == "data.augment" and isinstance(value, list) and len(value) < 2:
        return value[0] if value else "none"
    if isinstance(value, list):
        return [_one_form("", item) for item in value]
    if isinstance(value, Mapping):
        return {name: _one_form("", item) for name, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def content_hash(config: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of the content."""
    return hashlib.sha256(json.dumps(content(config), sort_keys=True).encode()).hexdigest()[:8]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose content differs between two resolved configurations, with the value that each has.

    A key that decides something in one of them alone, for what another key is there, is left out.
    """
    a, b = content(ours), content(theirs)
    keys = [key for key in sorted({*a, *b}) if not _same(a.get(key), b.get(key))]
    meant = meanings(ours), meanings(theirs)
    values = {key: tuple(one.get(key, _no_value(one).get(key)) for one in meant) for key in keys}
    return {key: (x, y) for key, (x, y) in values.items() if not _same(x, y)}


def _same(x: Any, y: Any) -> bool:
    return json.dumps(x, sort_keys=True) == json.dumps(y, sort_keys=True)  # where true is not 1


def choices_of_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """The choices of groups that a run recorded: the first runs none, or none of a loss."""
    model, recorded = config.get("model"), config.get("choices", {})
    name = model.get("name") if isinstance(model, Mapping) else None
    return {"model": name, **({"loss": "cross_entropy"} if recorded else {}), **recorded}


def to_compose_again(config: Mapping[str, Any]) -> dict[str, Any]:
    """The choices of groups and the keys that compose the configuration, as far as they decide its result."""
    choices = choices_of_run(config)
    kept = [group for group in choices if group in config and (group != "callbacks" or changing_callbacks(config))]
    meant = meanings(config)
    changes = {key: meant[key] for key in config.get("changes", ()) if key in meant and key not in CHECKSUMS}
    switched_off = {f"callbacks.{name}": None for name, item in config.get("callbacks", {}).items() if not item}
    return {group: choices[group] for group in kept if choices[group]} | changes | switched_off


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into one with dotted keys; lists are values."""
    if not isinstance(node, Mapping) or (prefix and not node):
        return {prefix: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in flatten(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def is_part_of(key: str, parents: tuple[str, ...]) -> bool:
    """Whether the dotted key is one of the parents, or lies below one."""
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)
