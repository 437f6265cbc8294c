import os
import re
import shlex
import shutil

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image
from support.breaking import EACH_STEP, KEPT, pull_the_plug, train_through

from convnets.data import DataUnavailableError, ImageFolderDataModule
from convnets.data.own_pictures import fill_square
from convnets.results.evaluation import evaluate
from convnets.results.export import export
from convnets.results.prediction import find_pictures
from convnets.results.trained_run import load_run
from convnets.training.train import train

CLASSES = {"Äpfel & Birnen": (200, 30, 40), "バナナ": (240, 210, 40), "lime #1": (60, 190, 50)}


def fill(folder, num_pictures=10, classes=tuple(CLASSES)):
    """Pictures of 20 x 16 pixels; the first channel's value says the class, the last one's the number."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(num_pictures):
            red, green, _ = CLASSES.get(name, (1, 2, 3))
            Image.new("RGB", (20, 16), (red, green, number)).save(folder / name / f"bild {number}.png")
    return folder


@pytest.fixture
def read(tmp_path):
    def read(folder=tmp_path / "my photos", **options):
        datamodule = ImageFolderDataModule(folder, stored_size=8, cache_dir=tmp_path / "cache", **options)
        datamodule.prepare_data()
        datamodule.setup()
        return datamodule

    return read


@pytest.fixture
def photos(tmp_path):
    return fill(tmp_path / "my photos")


def numbers(dataset):
    images, labels = dataset[torch.arange(len(dataset))]
    return sorted((int(label), int(image[2, 0, 0])) for image, label in zip(images, labels, strict=True))


def refusal(read, *arguments, **options):
    with pytest.raises((DataUnavailableError, ValueError)) as error:
        read(*arguments, **options)
    return str(error.value)


def test_a_folder_of_classes_is_divided_with_every_class_in_proportion(photos, read):
    first, again, other = read(), read(), read(split_seed=1)
    assert first.class_names == tuple(sorted(CLASSES))
    assert first.name == "my photos"
    assert {split: part.labels.bincount().tolist() for split, part in first.splits.items()} == {
        "train": [8] * 3, "val": [2] * 3, "test": [2] * 3,
    }  # fmt: skip
    everything = sorted(numbers(first.splits["train"]) + numbers(first.splits["test"]))
    assert everything == [(label, number) for label in range(3) for number in range(10)]
    assert numbers(again.splits["test"]) == numbers(first.splits["test"]) != numbers(other.splits["test"])
    reds = [CLASSES[name][0] for name in first.class_names]
    assert all(
        image[0, 0, 0] == reds[label] for image, label in zip(*first.splits["test"][torch.arange(6)], strict=True)
    )
    held = read(holdout=6, test_share=0.5)
    assert [len(held.splits[split]) for split in ("train", "val", "test")] == [9, 6, 15]
    assert not {*numbers(held.splits["val"])} & {*numbers(held.splits["train"]), *numbers(held.splits["test"])}
    assert len({part.stored.data_ptr() for part in held.splits.values()}) == 1  # nothing is copied


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_split_of_its_own_is_kept(tmp_path, read, test):
    fill(tmp_path / "my photos/train"), fill(tmp_path / "my photos" / test, 3)
    datamodule = read(channels=1)
    assert [len(datamodule.splits[split]) for split in ("train", "test")] == [30, 9]
    assert datamodule.splits["val"] is datamodule.splits["test"]
    assert datamodule.splits["train"][torch.arange(2)][0].shape == (2, 1, 8, 8)


def test_pictures_in_val_are_the_held_out_ones_and_say_how_many(tmp_path, read):
    for split, num_pictures in (("train", 10), ("val", 2), ("test", 3)):
        fill(tmp_path / "my photos" / split, num_pictures)
    for wrong in (0, 5):
        assert "has 6 pictures in val: set data.holdout=6 to validate on these" in refusal(read, holdout=wrong)
    datamodule = read(holdout=6)
    assert {split: len(part) for split, part in datamodule.splits.items()} == {"train": 30, "val": 6, "test": 9}
    assert not datamodule.validates_on_test_split


def test_a_picture_is_prepared_as_those_of_the_folder(photos, read):
    datamodule = read()
    with Image.open(next((photos / "lime #1").iterdir())) as picture:
        image, background = datamodule.prepare_picture(picture)
    assert background is None
    assert any((image == other.numpy()).all() for other in datamodule.splits["train"].stored)
    assert (image == fill_square(picture, 8, 3)).all()


def test_what_programs_leave_is_passed_over_and_other_files_are_named(photos, read, caplog):
    for name in (".DS_Store", "Thumbs.db", "lime #1/.DS_Store", "lime #1/Thumbs.db", "lime #1/._bild 0.png"):
        (photos / name).write_bytes(b"\0")
    (photos / ".ipynb_checkpoints").mkdir()
    assert len(read().splits["train"]) == 24
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == []
    (photos / "labels.csv").write_text("")
    assert len(read().splits["train"]) == 24
    assert "in no class's folder, and not used: labels.csv" in caplog.text


def test_files_at_any_depth_and_links_to_folders_count(photos, read, tmp_path):
    (photos / "lime #1" / "more").mkdir()
    shutil.copy(photos / "バナナ" / "bild 0.png", photos / "lime #1" / "more")
    (photos / "バナナ").rename(tmp_path / "elsewhere")
    (photos / "バナナ").symlink_to(tmp_path / "elsewhere")
    assert read().listing.labels.count(0) == 11


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda photos: shutil.rmtree(photos), "my photos is not there. The pictures must lie in DIR/CLASS/"),
        (lambda photos: (shutil.rmtree(photos), photos.write_text("")), "my photos is no folder."),
        (lambda photos: (shutil.rmtree(photos), photos.mkdir()), "has no folders of classes in it. The pictures"),
        (lambda photos: [shutil.rmtree(photos / name) for name in list(CLASSES)[1:]], "one class only, Äpfel"),
        (lambda photos: (photos / "empty").mkdir(), "empty has no picture: put some into it, or remove it"),
        (lambda photos: (photos / "train").mkdir(), "has train, but neither test nor val."),
        (lambda photos: (photos / "lime #1/loop").symlink_to(photos), "loop links to a folder that it lies in"),
        (lambda photos: (photos / "lime #1/gone.png").symlink_to("away"), "gone.png links to nothing: take it out"),
        (lambda photos: (photos / "lime #1/self").symlink_to("self"), "self links to nothing: take"),
        (lambda photos: os.mkfifo(photos / "lime #1/pipe"), "pipe is neither a file nor a folder"),
        (lambda photos: fill(photos, 1, ["one"]), "the test split of: one. Add pictures, or choose another data.h"),
        (lambda photos: fill(photos, 1, ["train"]), "neither test nor val. The pictures"),
    ],
)  # fmt: skip
def test_another_folder_is_refused_in_words(photos, read, make, words):
    make(photos)
    assert words in refusal(read)


def test_a_folder_to_be_set_instead_can_be_typed_as_it_stands(tmp_path, read):
    folder = fill(tmp_path / 'my "own" photos' / "it's")
    words = shlex.split(refusal(read, folder.parent).partition(" If these lie deeper: ")[2])
    assert OverridesParser.create().parse_override(*words).value() == str(folder)


def test_a_holdout_leaves_every_class_a_training_picture(tmp_path, read):
    fill(tmp_path / "my photos", 5)
    assert read(holdout=6).splits["train"].labels.bincount().tolist() == [2] * 3
    assert "has no picture for the train split of: " in refusal(read, holdout=10)


def test_a_folder_that_changes_before_another_process_reads_it_is_refused(photos, tmp_path):
    (photos / "lime #1/bild 0.png").touch()
    other = ImageFolderDataModule(photos, stored_size=8, cache_dir=tmp_path / "cache")
    with pytest.raises(DataUnavailableError, match=r"my photos changed after its pictures were decoded: start again\."):
        other.setup()


def test_names_of_any_bytes_stay_apart(photos, read, caplog):
    names = [os.fsdecode(name) for name in (b"\xe9", b"\xe8")]
    fill(photos, classes=names)
    (photos / names[0] / names[1]).write_text("no picture")
    assert read(bad_files="skip").class_names[-2:] == ("\\xe8", "\\xe9")
    assert "  \\xe9/\\xe8: is no JPEG" in caplog.text


def test_classes_that_differ_between_splits_are_named(tmp_path, read):
    fill(tmp_path / "my photos/train"), fill(tmp_path / "my photos/test", classes=["lime #1", "kiwi"])
    assert re.search(r"splits of .* have different classes: train lacks kiwi\. Every split", refusal(read))
    shutil.rmtree(tmp_path / "my photos/test/kiwi")
    assert "test lacks Äpfel & Birnen, バナナ. Every split needs a folder for every class" in refusal(read)


def test_files_that_are_no_pictures_are_named_and_skipped_only_where_that_is_wished(photos, read, caplog):
    for number in range(6):
        (photos / "lime #1" / f"{number}.txt").write_text("no picture")
    (photos / "バナナ/bild 3.png").write_bytes((photos / "バナナ/bild 3.png").read_bytes()[:60])
    message = refusal(read)
    assert message.startswith("7 of 36 files of ")
    assert "my photos cannot be decoded:\n" in message
    assert "  lime #1/0.txt: is no JPEG, PNG, WEBP, BMP, TIFF, GIF or PPM picture\n" in message
    assert "  and 2 more\n" in message
    assert "data.bad_files=skip" in message
    datamodule = read(bad_files="skip")
    assert "my photos cannot be decoded, and are skipped:\n" in caplog.text
    kept = numbers(datamodule.splits["train"]) + numbers(datamodule.splits["test"])
    assert sorted(kept) == sorted({(label, n) for label in range(3) for n in range(10)} - {(2, 3)})


def test_a_class_whose_files_are_all_bad_is_refused(photos, read):
    for path in (photos / "lime #1").iterdir():
        path.write_text("no picture")
    assert "has no picture for the train split of: lime #1." in refusal(read, bad_files="skip")


def test_a_changed_folder_has_another_digest(photos, read):
    listed = ImageFolderDataModule(photos, stored_size=8).digest
    before = read().digest
    assert read().digest == before == listed
    path = photos / "lime #1/bild 1.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    touched = read().digest
    path.rename(path.with_name("other name.png"))
    assert len({before, touched, read().digest, read(channels=1).digest}) == 4
    later = ImageFolderDataModule(photos, stored_size=8)
    later.take_facts({"class_names": ["remembered"], "num_channels": 3, "image_size": 8, "mean": None, "std": None})
    shutil.rmtree(photos)
    assert later.num_classes == 1


def test_a_run_on_a_folder_resumes_to_the_same_bits_and_is_used_without_it(photos, compose, tmp_path):
    quick = ("trainer=cpu", "callbacks=none", "logger=none", "trainer.max_epochs=2", "data.batch_size=8", EACH_STEP)
    config = compose("data=image_folder", *quick, KEPT, "data.stored_size=28", "data.holdout=6", "data.augment=erase")
    OmegaConf.update(config, "data.dir", str(photos))
    OmegaConf.update(config, "data.cache_dir", str(tmp_path / "cache"))
    result = train(config, tmp_path / "run")
    train_through(config, tmp_path / "resumed", {3: pull_the_plug})
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("run", "resumed")]
    assert weights[0] == weights[1]
    run = load_run(tmp_path / "run")
    assert evaluate(run)["accuracy"] == result["metrics"]["test/accuracy"]
    pictures = find_pictures([fill(tmp_path / "others", 2)])
    before = run.predict(pictures)
    assert len(before) == 6
    shutil.rmtree(photos), shutil.rmtree(tmp_path / "cache")
    later = load_run(tmp_path / "run")
    assert later.predict(pictures) == before
    program = torch.export.load(export(later, "torch").path).module()
    images = torch.stack([torch.from_numpy(fill_square(Image.open(path), 28, 3)) for path in pictures])
    shares = program(images).softmax(dim=1).max(dim=1).values
    assert shares.tolist() == pytest.approx([one.probability for one in before])
