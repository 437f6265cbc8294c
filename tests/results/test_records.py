import json

import pytest
from omegaconf import OmegaConf

from convnets.results.records import as_page, chosen_by_test_split, find_records, write_records
from convnets.runs.run import read_run


@pytest.fixture
def make_run(compose, tmp_path):
    def make_run(*overrides, accuracy, weights_of_epoch=None, name=None):
        config = compose(*overrides)
        path = tmp_path / (name or "-".join(overrides).replace("/", "_"))
        path.mkdir()
        OmegaConf.save(config, path / "config.yaml")
        protocol, split = ("holdout", "test") if config.data.holdout else ("test split", "val")
        epochs = config.trainer.max_epochs
        result = {
            "metrics": {"val/accuracy": 0.5, f"{split}/accuracy": accuracy},
            "validated_on": protocol,
            "epochs": epochs,
            "weights_of_epoch": weights_of_epoch or epochs,
            "train_seconds": 100.0 + 60 * config.seed,
            "num_parameters": 61706,
            "device": "2 CPU threads",
            "processor": "An Abacus",
        }
        (path / "result.json").write_text(json.dumps(result))
        return read_run(path)

    return make_run


LENET = "experiment=modern/lenet"


def test_a_record_is_the_mean_over_the_seeds_of_its_very_recipe(make_run, tmp_path):
    runs = [make_run(LENET, f"seed={seed}", accuracy=0.92 + seed / 100) for seed in range(5)]
    again = make_run(LENET, "seed=0", accuracy=0.92, name="again")  # one seed, twice
    other = make_run(LENET, "model.lr=0.5", accuracy=0.99)
    page = write_records([*runs, again, other], tmp_path / "report")
    (record,) = find_records([*runs, again, other])
    assert (record.experiment, len(record.accuracies), record.doubts) == ("modern/lenet", 5, [])
    assert (
        "| modern/lenet | 61,706 | 45 | 3 min 40 s | 0.9400 ± 0.0158 | 5 | all images | 2 CPU threads, An Abacus |"
        in " ".join(page.split()).replace(" |", " |")
    )
    assert "python scripts/train.py -m experiment=modern/lenet seed=0,1,2,3,4" in page
    assert "ResNet-20" in page
    assert (tmp_path / "report" / "records.md").read_text() in page + "\n"


def test_what_the_test_split_chose_is_no_record(make_run):
    by_epoch = [make_run(LENET, f"seed={seed}", accuracy=0.95, weights_of_epoch=7) for seed in range(5)]
    (record,) = find_records(by_epoch)
    assert record.doubts == ["the test split chose the epoch"]
    assert "0.9500 ± 0.0000 (no record: the test split chose the epoch)" in as_page([record])
    every = "trainer.check_val_every_n_epoch=1"
    assert chosen_by_test_split(make_run(every, "stopping=early", accuracy=0.9))
    assert not chosen_by_test_split(make_run(every, "stopping=early", "data.holdout=5000", accuracy=0.9))
    assert not chosen_by_test_split(make_run("stopping=early", "stopping.monitor=train/loss", accuracy=0.9))


def test_few_seeds_are_no_record_and_none_is_said(make_run):
    (record,) = find_records([make_run(LENET, accuracy=0.93)])
    assert "0.9300 (no record: 1 seed of 5)" in as_page([record])
    assert "No run in outputs/ is of a recipe that holds one." in as_page([])
