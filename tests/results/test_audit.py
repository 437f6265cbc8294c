import json

import numpy as np
import pytest
import torch
from PIL import Image

from convnets.configuration.rules import ConfigurationError
from convnets.results.audit import audit, in_words, near_duplicates
from convnets.results.trained_run import TrainedRun
from convnets.training.train import train


def test_near_duplicates_are_those_of_numpy():
    generator = torch.Generator().manual_seed(0)
    training = torch.randint(256, (40, 1, 6, 6), dtype=torch.uint8, generator=generator)
    test = torch.randint(256, (600, 1, 6, 6), dtype=torch.uint8, generator=generator)
    test[7] = training[30]
    test[550] = training[2] // 2  # darker
    test[9] = 128  # of one colour, like nothing
    pixels = torch.cat([training, test[torch.arange(600) != 9]]).flatten(1).numpy()
    alike = np.argwhere(np.corrcoef(pixels)[:40, 40:] >= 0.98)
    expected = {(row, column + (column >= 9)) for row, column in alike.tolist()}
    assert expected == {(30, 7), (2, 550)}
    assert {pair[:2] for pair in near_duplicates(training, test)} == expected


@pytest.fixture(scope="module")
def folds(small, tmp_path_factory):
    """Two runs that hold out half of the sample each."""
    words = ("model.activation=relu", "trainer.limit_train_batches=null", "data.folds=2", "trainer.max_epochs=4")
    folder = tmp_path_factory.mktemp("folds")
    for fold in (0, 1):
        train(small(*words, f"data.fold={fold}"), folder / str(fold))
    return [folder / str(fold) for fold in (0, 1)]


def test_every_image_is_judged_by_networks_that_never_trained_on_it(folds, tmp_path):
    pytest.importorskip("cleanlab", reason="needs the extra `audit`: pip install -e '.[audit]'")
    runs = [TrainedRun(folder) for folder in folds]
    summary = audit(runs, tmp_path / "audit")
    assert (summary["train"]["images"], summary["test"]["images"]) == (1000, 200)
    for split in ("train", "test"):
        low, high = summary[split]["called_wrong"]
        assert 0 < low <= high < summary[split]["images"]
    header, *rows = (tmp_path / "audit" / "audit.csv").read_text().splitlines()
    assert (header.split(",")[:3], len(rows)) == (["split", "image", "label"], 1200)
    assert json.loads((tmp_path / "audit" / "audit.json").read_text()) == summary
    with Image.open(tmp_path / "audit" / "audit.png") as picture:
        assert picture.width > 500
    assert "Of 200 test labels, " in in_words(summary)


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [({}, None), ({"shirt": 3}, "shirt (3)"), ({"shirt": 3, "coat": 1}, "shirt (3) and coat (1)")],
)
def test_the_sentences_hold_for_labels_that_all_look_right(classes, sentence):
    part = {"images": 200, "called_wrong": [sum(classes.values())] * 2, "classes": classes}
    text = in_words({"train": part, "test": part, "duplicates": {"correlation": 0.98, "pairs": 0}})
    assert f"reach {1 - sum(classes.values()) / 200:.1%} to" in text
    assert ("they are mostly" in text) == bool(classes)
    assert f"mostly those of {sentence}.\n" in text or not classes


def test_other_runs_than_a_cross_validation_are_refused(folds, small, tmp_path):
    with pytest.raises(ConfigurationError, match="Give the runs of a cross-validation"):
        audit([], tmp_path)
    train(small(), tmp_path / "other")
    with pytest.raises(ConfigurationError, match=r"differ in .*, not in data\.fold alone"):
        audit([TrainedRun(folds[0]), TrainedRun(tmp_path / "other")], tmp_path)
    with pytest.raises(ConfigurationError, match="held out no image: train a cross-validation"):
        audit([TrainedRun(tmp_path / "other")], tmp_path)
    with pytest.raises(ConfigurationError, match="500 training images are held out by none of these runs"):
        audit([TrainedRun(folds[0])], tmp_path)
