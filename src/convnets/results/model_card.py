"""The model card of an exported network: what it is, how to load it, how good it is, and what it is not for."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from convnets.configuration.rules import ConfigurationError
from convnets.data import DataUnavailableError
from convnets.files import RunFolderError, write_atomically
from convnets.results.evaluation import evaluate, load_evaluation
from convnets.results.export import Exported
from convnets.results.trained_run import TrainedRun
from convnets.training.console import describe_training

FILE = "model_card.md"
NORMAL_95 = 1.96  # standard deviations
DATA_KEYS = ("resize", "normalize", "augment", "mix", "holdout")


def write_card(run: TrainedRun, exported: Exported) -> Path:
    """Write RUN/model_card.md beside the exported program; evaluates the run on the test split where it is not yet.

    The figures are those of one view an image, which is what the program does, whatever the run averages over.
    """
    config, result, views = run.stored_config, run.result, run.config.get("test_time_augmentation", "none")
    datamodule = run.build_datamodule()
    evaluation: dict[str, Any] = {}
    missing = ""
    try:
        evaluation = load_evaluation(run, "test") if views == "none" else evaluate(run, "test", "none")
    except (RunFolderError, ConfigurationError, DataUnavailableError) as reason:
        missing = str(reason)
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, keep_trailing_newline=True
    )
    card = templates.get_template("model_card.md.j2").render(
        model=config["model"]["name"],
        data=datamodule.name,
        data_words=describe_training(run.config, run.datamodule, run.classifier) if evaluation else datamodule.name,
        data_settings={key: value for key in DATA_KEYS if (value := config["data"].get(key)) not in (None, "none", 0)},
        classes=datamodule.class_names,
        onnx=exported.path.suffix == ".onnx",
        exported=exported,
        shape=", ".join(map(str, exported.image_shape)),
        evaluation=evaluation,
        missing=missing,
        **(_conclusions(evaluation) if evaluation else {}),
        on_test_split=run.validated_on_test_split(),
        views=views,
        choices=run.settings,
        lr=config["model"]["lr"],
        batch_size=config["data"]["batch_size"],
        seed=config["seed"],
        result=result,
        run=run.path.resolve().name,
        versions=", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    )
    write_atomically(run.path / FILE, card)
    return run.path / FILE


def _conclusions(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Half the width of the accuracy's 95 % interval, the class that is found least, and the commonest mistake."""
    accuracy, names = evaluation["accuracy"], [row["class"] for row in evaluation["classes"]]
    number, true, predicted = max(
        (number, true, predicted)
        for true, row in enumerate(evaluation["confusion_matrix"])
        for predicted, number in enumerate(row)
        if predicted != true
    )
    confused = {"number": number, "true": names[true], "predicted": names[predicted]}
    return {
        "half_width": NORMAL_95 * math.sqrt(accuracy * (1 - accuracy) / evaluation["num_images"]),
        "weakest": min(evaluation["classes"], key=lambda row: row["recall"]),
        "confused": {**confused, "of": evaluation["classes"][true]["images"]} if number else None,
    }
