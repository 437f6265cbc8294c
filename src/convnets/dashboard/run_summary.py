"""The summary in TensorBoard of a run that has ended."""

import io
import logging
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.v2.functional import resize

from convnets.classifier import Classifier
from convnets.dashboard.hyperparameters import write_hyperparameters
from convnets.dashboard.pictures import softmax
from convnets.dashboard.probe import Array, as_array, watching
from convnets.data import ImageDataModule
from convnets.networks import as_table, summarize

log = logging.getLogger(__name__)

NUM_EMBEDDED = 1000
THUMBNAIL = 64  # pixels of a side, at most; of more, the sheet of 1,000 would be larger than browsers draw
MOST_DIMENSIONS = 128  # of the projector, whose file is text


class Tested(NamedTuple):
    """Labels (N,), scores (N, num_classes), and of the first 1,000 images the inputs of the last linear layer.

    The latter are `units` (1000, n); `thumbnails` are these images, (1000, C, h, w) of bytes, of up to 64 pixels.
    """

    thumbnails: Tensor
    labels: Any
    scores: Array
    units: Array


def write_summary(
    writer: SummaryWriter,
    trainer: Trainer,
    classifier: Classifier,
    config: Mapping[str, Any],
    result: Mapping[str, Any],
) -> None:
    """Write the summary of a finished run at the step after the last epoch's.

    Of the test split, precision against recall of each class, and 1,000 images in the space of the last layer; the
    hyperparameters with the final metrics; configuration, versions, command and layers as text; the network's graph.

    Args:
        config: resolved.
        result: of the training; see result.json.
    """
    step = result["epochs"] + 1  # where it is dropped if the run is extended
    datamodule = ImageDataModule.of(trainer)
    names = datamodule.class_names
    classifier.to(trainer.strategy.root_device)
    tested = _test(trainer, classifier, datamodule)
    for label, probabilities in enumerate(softmax(tested.scores).T):
        tag = re.sub(r"[^\w.-]+", "_", f"{label} {names[label]}")  # C# and C+ alike are C_
        writer.add_pr_curve(f"precision_recall/{tag}", tested.labels == label, probabilities, step)
    _write_embedding(writer, step, names, tested)
    write_hyperparameters(writer, step, config, result)
    layers = summarize(deepcopy(classifier.network), datamodule.resize, datamodule.num_channels)
    facts = {"device": result["device"], "git commit": result["git_commit"], **result["versions"]}
    texts = {
        "configuration": f"```yaml\n{yaml.safe_dump(dict(config), sort_keys=False)}```",
        "versions": "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]),
        "command": f"```\n{shlex.join(['python', *sys.argv])}\n```",
        "layers": f"```\n{as_table(layers, datamodule.batch_size, depth=2)}\n```",
    }
    for name, text in texts.items():
        writer.add_text(f"run/{name}", text, step)
    _write_graph(writer, classifier, datamodule.to_network_input(datamodule.splits["test"][torch.arange(1)][0]))
    classifier.cpu()


def _test(trainer: Trainer, classifier: Classifier, datamodule: ImageDataModule) -> Tested:
    """Run the test split through the network, as many batches as a test is limited to."""
    dataset, size = datamodule.splits["test"], datamodule.batch_size
    limit: Any = trainer.limit_test_batches
    num_batches = limit if isinstance(limit, int) else int(limit * -(-len(dataset) // size))
    numbers = torch.arange(len(dataset))[: num_batches * size]
    entered: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        for layer in classifier.network.modules()
        if isinstance(layer, nn.Linear)
    ]
    scores: list[Array] = []
    units: list[Array] = []
    thumbnails: list[Tensor] = []
    with watching(trainer, classifier):
        for some in numbers.split(size):
            batch, _ = dataset[some]
            scores.append(as_array(classifier(datamodule.to_network_input(batch.to(classifier.device)))))
            if len(units) * size < NUM_EMBEDDED:
                units.append(as_array(entered[-1].flatten(1)) if entered else scores[-1])
                thumbnails.append(batch if batch.shape[-1] <= THUMBNAIL else resize(batch, [THUMBNAIL, THUMBNAIL]))
            entered.clear()
    for hook in hooks:
        hook.remove()
    first = slice(NUM_EMBEDDED)
    labels = dataset.labels[numbers].numpy()
    return Tested(torch.cat(thumbnails)[first], labels, np.concatenate(scores), np.concatenate(units)[first])


def _write_embedding(writer: SummaryWriter, step: int, names: tuple[str, ...], tested: Tested) -> None:
    """Write points for the projector, each with its picture and class.

    Of more than 128 dimensions only the 128 principal ones are written; in multiples of their standard deviation.
    """
    units = tested.units - tested.units.mean(axis=0)
    if units.shape[1] > MOST_DIMENSIONS:
        left, scale, _ = np.linalg.svd(units, full_matrices=False)
        units = (left * scale)[:, :MOST_DIMENSIONS]
    units = units / (units.std() or 1)
    guesses = tested.scores.argmax(1)
    rows = [
        [names[label], names[guess], "right" if label == guess else "wrong"]
        for label, guess in zip(tested.labels[: len(units)], guesses, strict=False)
    ]
    shutil.rmtree(Path(writer.log_dir) / f"{step:05d}", ignore_errors=True)  # of a process that was killed here
    writer.add_embedding(
        np.round(units.astype(float), 4), rows, tested.thumbnails.float() / 255, step,
        tag="test_images", metadata_header=["class", "taken for", "right or wrong"],
    )  # fmt: skip


def _write_graph(writer: SummaryWriter, classifier: Classifier, image: Tensor) -> None:
    """Write the network's graph, if TensorBoard can trace it; its layers are there as text in any case."""
    # add_graph calls torch.jit.trace, which is deprecated, and prints what it raises
    with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
        try:
            writer.add_graph(classifier.network, image.to(classifier.device))
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            log.info("TensorBoard shows no graph, for the network cannot be traced: %s", reason)
