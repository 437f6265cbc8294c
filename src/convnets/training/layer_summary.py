"""The layer summary of a configuration's network."""

import torch
from omegaconf import DictConfig, OmegaConf

from convnets.networks import as_table, summarize
from convnets.training.building import build_classifier, build_datamodule


def describe_network(config: DictConfig, depth: int = 1) -> str:
    """Format the network's layers down to `depth`, and of a grouped network what grouping saves.

    Raises:
        ConfigurationError: the network does not take such images or options.
    """
    datamodule = build_datamodule(config)
    side, num_channels = config.data.resize, datamodule.num_channels
    with torch.device("meta"):
        lines = summarize(build_classifier(config, datamodule).network, side, num_channels)
    heading = f"{config.model.name}, {num_channels}x{side}x{side} images"
    text = f"{heading}\n{as_table(lines, config.data.batch_size, depth)}"
    if config.model.get("num_groups", 1) == 1:
        return text
    ungrouped: DictConfig = OmegaConf.merge(config, {"model": {"num_groups": 1, "group_width": None}})  # type: ignore[assignment]
    with torch.device("meta"):
        dense = summarize(build_classifier(ungrouped, datamodule).network, side, num_channels)
    saved = [
        f"{what} {without:,} -> {grouped:,} ({without / grouped:.1f} times fewer)"
        for what, without, grouped in (
            ("parameters", dense[0].num_parameters, lines[0].num_parameters),
            ("multiply-adds", dense[0].multiply_adds, lines[0].multiply_adds),
        )
    ]
    return "\n".join([text, "", "what grouping saves beside the same network with one group:", *saved])
