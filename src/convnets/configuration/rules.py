"""The values that each key may have, and what is wrong with a configuration. Knows no torch.

The keys of a configuration are those of the files in conf/ that it is composed of, and the arguments of the classes
that it calls; `RULES` adds types and ranges.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from convnets.configuration.content import flatten, is_part_of
from convnets.configuration.signatures import further_keys


class ConfigurationError(ValueError):
    """A configuration is wrong; the text names the key, the value and the way out."""


@dataclass(frozen=True)
class Rule:
    """The values that a key may have."""

    wording: str
    allows: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(lowest: int, highest: int | None = None) -> Rule:
    """Whole numbers between the two, both included."""
    wording = (
        f"a whole number of at least {lowest}" if highest is None else f"a whole number from {lowest} to {highest}"
    )
    return Rule(wording, lambda v: _is_whole(v) and lowest <= v and (highest is None or v <= highest))


def optional(rule: Rule) -> Rule:
    """What the rule allows, or null."""
    return Rule(f"{rule.wording}, or null", lambda v: v is None or rule.allows(v))


def one_of(*choices: str) -> Rule:
    """Any of these words."""
    return Rule(f"one of {', '.join(choices)}", lambda v: v in choices)


POSITIVE = Rule("a number above 0", lambda v: _is_number(v) and v > 0)
NOT_NEGATIVE = Rule("a number of at least 0", lambda v: _is_number(v) and v >= 0)
PROBABILITY = Rule("a number from 0 to below 1", lambda v: _is_number(v) and 0 <= v < 1)
SHARE = Rule("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)
FLAG = Rule("true or false", lambda v: isinstance(v, bool))
TEXT = Rule("a text", lambda v: isinstance(v, str) and v != "")
PATH = Rule("a path", TEXT.allows)
FOLDER_NAME = Rule(
    "1 to 100 letters from A to Z, digits, dots, dashes and underscores, the first no dot (in two pairs of quotes, "
    "'\"1.5\"', what would be a number or true)",
    lambda v: re.fullmatch(r"(?!\.)[A-Za-z0-9._-]{1,100}", str(v)) is not None and (isinstance(v, str) or _is_whole(v)),
)
BATCH_LIMIT = Rule(
    "a whole number of batches of at least 1, or a share of them above 0.0 and up to 1.0",
    lambda v: (_is_whole(v) and v >= 1) or (isinstance(v, float) and 0 < v <= 1),
)
DEVICES = Rule("auto, or a whole number of at least 1", lambda v: v == "auto" or (_is_whole(v) and v >= 1))
CHANNEL_BLOCKS = Rule(
    "a list of [convolutions or blocks, channels], each at least 1, such as [[1,16],[2,32]]",
    lambda v: (
        isinstance(v, list)
        and len(v) > 0
        and all(isinstance(b, list) and len(b) == 2 and all(_is_whole(n) and n >= 1 for n in b) for b in v)
    ),
)
WIDTHS = Rule(
    "a list of whole numbers of at least 1, such as [6,16]",
    lambda v: isinstance(v, list) and len(v) > 0 and all(_is_whole(n) and n >= 1 for n in v),
)
BAND = Rule(
    "[lowest, highest] accuracy, both from 0 to 1",
    lambda v: isinstance(v, list) and len(v) == 2 and all(map(_is_number, v)) and 0 <= v[0] <= v[1] <= 1,
)
# Those of convnets.data.augmentation, which knows torch.
AUGMENTATIONS = ("shift_flip", "shift_alternate", "nudge_flip", "crop_flip", "random_resized_crop", "erase", "color")
METRICS = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")  # that a schedule or a stopping may watch
CUDA_GRAPH_MODES = ("reduce-overhead", "max-autotune")
COMPILE_MODES = (*CUDA_GRAPH_MODES, "max-autotune-no-cudagraphs")
RULES: Mapping[str, Rule] = {
    "seed": whole(0, 2**32 - 1),
    "run_name": optional(FOLDER_NAME),
    "sweep_name": optional(FOLDER_NAME),
    "ignore_code_changes": FLAG,
    "channels_last": FLAG,
    "compile": Rule(
        f"true, false, or a mode of torch.compile: {', '.join(COMPILE_MODES)}",
        lambda v: isinstance(v, bool) or v in COMPILE_MODES,
    ),
    "steps_per_execution": whole(1),
    "checkpoint.every_seconds": POSITIVE,
    "checkpoint.keep": FLAG,
    "init.from_run": optional(PATH),
    "expected": optional(BAND),
    "model.lr": POSITIVE,
    "model.image_size": whole(1, 2048),
    "model.activation": one_of("sigmoid", "tanh", "relu", "gelu"),
    "model.padding_mode": one_of("zeros", "reflect", "replicate", "circular"),
    "model.blocks": CHANNEL_BLOCKS,
    "model.stages": CHANNEL_BLOCKS,
    "model.channels": WIDTHS,
    "model.hidden": WIDTHS,
    "model.num_convs": WIDTHS,
    "model.depth": whole(1),
    "model.kernel_size": whole(1),
    "model.padding": one_of("half", "none"),
    "model.pooling": one_of("avg", "max"),
    "model.norm": one_of("none", "batch", "batch_after", "batch_convolutions", "batch_dense"),
    "model.norm_momentum": Rule("a number above 0 and up to 1", lambda v: SHARE.allows(v) and v > 0),
    "model.temperature": POSITIVE,
    "model.stem": one_of("book", "small"),
    "model.growth": whole(1),
    "model.num_pointwise": whole(0),
    "model.dropout": PROBABILITY,
    "model.num_groups": optional(whole(1)),
    "model.group_width": optional(whole(1)),
    "model.bottleneck_ratio": Rule("a number above 0, or none", lambda v: v == "none" or POSITIVE.allows(v)),
    "data.dir": PATH,
    "data.resize": whole(1, 2048),
    "data.stored_size": whole(1, 2048),
    "data.bad_files": one_of("refuse", "skip"),
    "data.test_share": Rule("a number above 0 and below 1", lambda v: _is_number(v) and 0 < v < 1),
    "data.cache_dir": PATH,
    "data.batch_size": whole(1),
    "data.holdout": whole(0),
    "data.folds": optional(whole(2)),
    "data.fold": whole(0),
    "data.device": one_of("auto", "cpu"),
    "data.split_seed": whole(0, 2**32 - 1),
    "data.augment": Rule(
        f"none, one of {', '.join(AUGMENTATIONS)}, or a list of these, each once, such as [crop_flip,erase]",
        lambda v: (
            v in ("none", *AUGMENTATIONS)
            or (isinstance(v, list) and all(v.count(name) == 1 and name in AUGMENTATIONS for name in v))
        ),
    ),
    "data.mix": one_of("none", "mixup", "cutmix"),
    "data.normalize": one_of("none", "standard"),
    "model.arch": TEXT,
    "model.pretrained": FLAG,
    "model.weights": optional(PATH),
    "model.freeze": optional(one_of("backbone")),
    "model.backbone_lr": optional(POSITIVE),
    "model.bias_lr": optional(POSITIVE),
    "model.decayed": one_of("all", "weights"),
    "test_time_augmentation": one_of("none", "mirror", "mirror_shift"),
    "averaging.decay": PROBABILITY,
    "stopping.monitor": one_of(*METRICS),
    "stopping.mode": one_of("min", "max"),
    "stopping.patience": whole(1),
    "stopping.min_delta": NOT_NEGATIVE,
    "loss.label_smoothing": PROBABILITY,
    "loss.gamma": NOT_NEGATIVE,
    "loss.reduction": one_of("mean"),
    "optimizer.lr": POSITIVE,
    "optimizer.momentum": PROBABILITY,
    "optimizer.others_lr": POSITIVE,
    "optimizer.others_momentum": PROBABILITY,
    "optimizer.num_iterations": whole(1),
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.fused": optional(FLAG),
    "schedule.max_lr": POSITIVE,
    "schedule.eta_min": NOT_NEGATIVE,
    "schedule.warmup": SHARE,
    "schedule.hold": SHARE,
    "schedule.decay": one_of("linear", "cosine"),
    "schedule.final": SHARE,
    "trainer.accelerator": one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": DEVICES,
    "trainer.num_nodes": whole(1),
    "trainer.strategy": one_of("auto", "ddp", "ddp_find_unused_parameters_true"),
    "trainer.precision": one_of("32-true", "bf16-mixed", "16-mixed"),
    "trainer.matmul_precision": one_of("highest", "high", "medium"),
    "trainer.max_epochs": whole(1),
    "trainer.check_val_every_n_epoch": whole(1),
    "trainer.limit_train_batches": optional(BATCH_LIMIT),
    "trainer.limit_val_batches": optional(BATCH_LIMIT),
    "trainer.limit_test_batches": optional(BATCH_LIMIT),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.gradient_clip_val": optional(POSITIVE),
    "trainer.deterministic": FLAG,
    "trainer.sync_batchnorm": FLAG,
    "callbacks.dashboard.every": optional(whole(1)),
}
PATHS = (
    *(key for key, rule in RULES.items() if rule.wording.startswith(PATH.wording)),
    "hydra.run.dir",
    "hydra.sweep.dir",
)
SWITCHES = ("callbacks.", "logger.")  # their items may be switched off with false or null


def check(config: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
    """Compare a resolved configuration with the shipped files it is composed of, and with `RULES`.

    Args:
        reference: the same choices of groups, without any experiment or override.

    Raises:
        ConfigurationError: a key that is unknown or missing, a value of a wrong type or out of range.
    """
    listed, values = flatten(reference), flatten(config)
    known = dict(listed)
    for key, value in values.items():
        if key.startswith(SWITCHES) and (value is None or value is False) and key.count(".") == 1:
            continue
        if key not in known:
            known = known | further_keys(key, values) | known  # those of the files come first
        is_group = known.get(key) == {} or (key not in known and any(other.startswith(f"{key}.") for other in known))
        if is_group and value != {}:
            raise ConfigurationError(f"{key} holds several keys, got {value!r}: set one of them.")
        if key not in known:
            if is_part_of(key, tuple(further_keys(key, values))):  # within an argument that is a mapping
                continue
            raise ConfigurationError(unknown_key(key, known))
        if key in RULES:
            if not RULES[key].allows(value):
                raise ConfigurationError(f"{key} must be {RULES[key].wording}, got {value!r}.")
        elif not _same_type(value, known[key]):
            raise ConfigurationError(f"{key} must be {_type_name(known[key])} such as {known[key]!r}, got {value!r}.")
    for key in listed:
        parent = ".".join(key.split(".")[:2])
        if key not in values and not (parent in values and parent.startswith(SWITCHES)):
            raise ConfigurationError(f"{key} has no value: do not remove it, set {key}=VALUE.")


def _same_type(value: Any, default: Any) -> bool:
    if default is None:
        return True
    if isinstance(default, float):
        return _is_number(value)
    return isinstance(value, type(default)) and isinstance(value, bool) == isinstance(default, bool)


def _type_name(value: Any) -> str:
    names = {bool: "true or false,", int: "a whole number", float: "a number", str: "a text", list: "a list"}
    return names.get(type(value), "several keys")


def unknown_key(key: str, known: Mapping[str, Any]) -> str:
    """Say that a key does not exist, and which one may be meant."""
    candidates = {*(name for name in known if "._" not in name), *(name.rsplit(".", 1)[0] for name in known)}
    section, _, last = key.rpartition(".")

    def likeness(candidate: str) -> float:
        last_of_candidate = candidate.rsplit(".", 1)[-1]
        if len(last) > 3 and last in last_of_candidate:  # epochs -> trainer.max_epochs
            return 0.95
        ratios = [difflib.SequenceMatcher(a=a, b=b).ratio() for a, b in ((key, candidate), (last, last_of_candidate))]
        return sum(ratios) / 2

    nearest = max(sorted(candidates), key=likeness)
    hint = f" Did you mean {nearest}?" if likeness(nearest) > 0.6 else ""
    siblings = [
        name.rsplit(".", 1)[1] for name in known if section and name.rpartition(".")[0] == section and "._" not in name
    ]
    if siblings and not hint:
        hint = f" Keys of {section}: {', '.join(siblings)}."
    part = "hydra" if key.startswith("hydra.") else "job"
    return f"There is no key {key}.{hint} (--cfg {part} prints every key.)"
