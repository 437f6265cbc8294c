import io

import lightning
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image, ImageOps
from support.boots import BOOT, IMAGES, LABELS, large, saved
from support.fruit import COLOURS, picture

from convnets import plots
from convnets.classifier import Classifier
from convnets.configuration.rules import ConfigurationError
from convnets.data import ImageDataModule
from convnets.results.evaluation import load_predictions
from convnets.results.page import _evaluated
from convnets.results.prediction import Refusal, as_records, as_table, find_pictures, predict
from convnets.results.trained_run import TrainedRun as Run
from convnets.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory, small):
    path = tmp_path_factory.mktemp("runs") / "run"
    train(small("optimizer=adamw", "model.lr=0.01", "trainer.limit_train_batches=null", "trainer.max_epochs=20"), path)
    return Run(path)


def predictions(run, *arguments):
    return predict(run.classifier, run.build_datamodule(), *arguments)


def test_predictions_are_the_networks_probabilities(run, tmp_path):
    (answer,) = predictions(run, [saved(tmp_path, Image.fromarray(BOOT))])
    scores = run.classifier(run.datamodule.to_network_input(IMAGES[:1]))
    expected = scores[0].softmax(dim=0).topk(3)
    names = run.datamodule.class_names
    assert [name for name, _ in answer.top] == [names[index] for index in expected.indices]
    assert [probability for _, probability in answer.top] == pytest.approx(expected.values.tolist())


def test_pictures_enlarged_and_framed_are_recognised_as_well(run, tmp_path):
    def accuracy(make):
        paths = [saved(tmp_path, make(image[0].numpy()), f"{number}.png") for number, image in enumerate(IMAGES)]
        best = [answer.top[0][0] for answer in predictions(run, paths)]
        return np.mean([name == run.datamodule.class_names[label] for name, label in zip(best, LABELS, strict=True)])

    plain = accuracy(Image.fromarray)
    framed = accuracy(lambda image: ImageOps.expand(ImageOps.invert(large(image)), (40, 90), 255).convert("RGB"))
    assert plain > 0.6
    assert framed > plain - 0.05


def test_files_that_are_no_pictures_are_named_and_the_others_classified(run, tmp_path):
    good = saved(tmp_path, large())
    (tmp_path / "text.png").write_text("no picture")
    buffer = io.BytesIO()
    large().save(buffer, "PNG")
    (tmp_path / "torn.png").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    large().save(tmp_path / "turned.png", exif=b"Exif\0\0MM\0*")
    absent = tmp_path / "absent.jpg"
    answers = predictions(run, [*find_pictures([tmp_path]), absent])
    assert answers[0].path == good
    assert [refusal.reason for refusal in answers[1:]] == [
        "is no JPEG, PNG, WEBP, BMP, TIFF, GIF or PPM picture",
        "is damaged: image file is truncated",
        "is damaged: unpack requires a buffer of 4 bytes",
        "there is no such file",
    ]
    assert str(good) in as_table(answers)
    assert as_records(answers)[0]["assumed_background"] == "black"
    assert as_records(answers)[4] == {"file": str(absent), "error": "there is no such file"}


def test_a_folder_without_pictures_is_named(run, tmp_path):
    (answer,) = predictions(run, find_pictures([tmp_path]))
    assert answer == Refusal(tmp_path, "there is no picture in it")


def test_folders_are_searched_for_pictures(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.PNG", "a.jfif", "deep/c.pgm", "notes.txt"):
        (tmp_path / name).write_text("")
    assert find_pictures([tmp_path]) == [tmp_path / "a.jfif", tmp_path / "b.PNG", tmp_path / "deep" / "c.pgm"]


@pytest.fixture(scope="module")
def fruit_run(tmp_path_factory, compose):
    path = tmp_path_factory.mktemp("runs") / "fruit"
    config = compose(
        "data=fashion_mnist_sample", "data.resize=32", "data.batch_size=30", "trainer=cpu", "trainer.max_epochs=60",
        "optimizer=adamw", "model.lr=0.01", "model.activation=relu", "callbacks=none", "logger=none",
    )  # fmt: skip
    OmegaConf.update(config, "data._target_", "support.fruit.FruitDataModule")
    train(config, path)
    return Run(path, trust=["support.fruit.FruitDataModule"])


def test_pictures_for_a_colour_set_keep_their_colours_and_background(fruit_run, tmp_path):
    paths = [
        saved(tmp_path, picture(name, size=200).resize((400, 200)).crop((100, 0, 300, 200)), f"{name}.png")
        for name in COLOURS
    ]
    answers = predictions(fruit_run, paths)
    assert [answer.top[0][0] for answer in answers] == list(COLOURS)
    assert "background" not in as_table(answers)
    assert set(as_records(answers)[0]) == {"file", "top"}
    with pytest.raises(
        ConfigurationError, match=r"background=white is for Fashion-MNIST.* Those for fruit .* leave it out"
    ):
        predictions(fruit_run, paths, "white")


def test_the_page_draws_a_colour_sets_mistakes_in_colour(fruit_run, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "predictions", lambda images, *rest: (drawn.append(images), Figure())[1])
    loaded = load_predictions(fruit_run, "test")
    monkeypatch.setattr(
        "convnets.results.page.load_predictions", lambda *_: loaded._replace(predicted=1 - loaded.labels.sign())
    )
    assert len(_evaluated(fruit_run)) == 2
    assert drawn[0].shape == (10, 32, 32, 3)


def test_a_picture_gets_the_size_and_channels_of_the_data_set(fruit_run, tmp_path):
    plain = fruit_run.datamodule
    given = []

    class Own(ImageDataModule):
        image_size, num_channels, class_names = 32, 3, plain.class_names

        def to_network_input(self, images):
            given.append(images)
            return plain.to_network_input(images)

    own = Own("unused")
    classifier = Classifier(fruit_run.classifier.network, preprocess=own.to_network_input)
    (answer,) = predict(classifier, own, [saved(tmp_path, picture("lime"))])
    assert answer.label == "lime"
    np.testing.assert_array_equal(given[0][0].permute(1, 2, 0).numpy(), np.asarray(picture("lime")))


def test_a_loaders_batch_is_classified_as_the_evaluation_does(run):
    datamodule = run.datamodule
    images, _ = next(iter(datamodule.test_dataloader()))
    with torch.inference_mode():
        scores = run.classifier(images)
        assert torch.equal(scores, run.classifier(datamodule.to_network_input(images)))
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (expected, *_), *_ = trainer.predict(run.classifier, run.datamodule)
    torch.testing.assert_close(scores, expected)
    found = [answer.label for answer in run.predict(images)]
    assert found == [datamodule.class_names[index] for index in scores.argmax(dim=1)]
    with pytest.raises(ValueError, match="made without preprocess, so it takes no bytes"):
        Classifier(run.classifier.network)(images)


GREY = IMAGES[:4, 0].numpy()
WAYS = {
    "(H, W)": (GREY[0], 1),
    "(H, W, 1)": (GREY[0][..., None], 1),
    "(N, H, W)": (GREY, 4),
    "(3, H, W), three of the set's size": (GREY[:3], 3),
    "(N, C, H, W)": (GREY[:, None], 4),
    "(N, H, W, C)": (GREY[..., None], 4),
    "a tensor": (IMAGES[:4], 4),
    "a list": ([*GREY], 4),
    "an array that may not be written": (np.asarray(Image.fromarray(GREY[0])), 1),
    "a picture": (Image.fromarray(GREY[0]), 1),
    "pictures": (map(Image.fromarray, GREY), 4),
}


@pytest.mark.parametrize("way", WAYS)
def test_images_are_taken_in_any_form(run, way):
    images, number = WAYS[way]
    expected = run.predict(IMAGES[:number])
    found = run.predict(images)
    assert [answer.label for answer in found] == [answer.label for answer in expected]
    for answer, other in zip(found, expected, strict=True):
        assert answer.probabilities == pytest.approx(other.probabilities, abs=1e-6)
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert answer.probability == max(answer.probabilities.values())
    assert repr(found[0]).startswith(f"<{found[0].label} {found[0].probability:.3f}, ")


def test_many_images_are_prepared_and_scored_a_few_at_a_time(run, tmp_path, monkeypatch):
    monkeypatch.setattr("convnets.results.prediction.CHUNK", 3)
    given, scored = [], []

    def images():
        for image in (*IMAGES[:4], tmp_path / "absent.png", *IMAGES[4:8]):
            given.append(image)
            yield image

    hook = run.classifier.network.register_forward_pre_hook(lambda *_: scored.append(len(given)))
    answers = predictions(run, images())
    hook.remove()
    assert scored == [3, 6, 9]
    (refusal,) = [answer for answer in answers if isinstance(answer, Refusal)]
    assert answers.pop(4) == refusal == Refusal(tmp_path / "absent.png", "there is no such file")
    for answer, expected in zip(answers, run.predict(IMAGES[:8]), strict=True):
        assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GREY / 255, r"must be bytes \(uint8, 0 to 255\), got float64"),
        (np.zeros((3, 90, 80), np.uint8), r"3 grey images or one image of 3 channels: array\[:, None]"),
        (np.zeros((5, 2, 28, 28), np.uint8), r"sides of 5 pixels or more, got \(5, 2, 28, 28\)"),
        (np.zeros(784, np.uint8), r"got \(784,\)"),
        (3, "must be a path, a PIL image, an array or a tensor, got 3"),
        ("absent.png", r"absent\.png: there is no such file\."),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_in_words(run, images, message):
    with pytest.raises(ValueError, match=message):
        run.predict(images)


def test_colour_arrays_are_images_of_a_colour_set(fruit_run):
    limes = np.stack([np.asarray(picture("lime"))] * 2)  # (N, H, W, C)
    for images in (limes, limes.transpose(0, 3, 1, 2), limes[0], limes[0].transpose(2, 0, 1), limes.repeat(2, 1)):
        assert {answer.label for answer in fruit_run.predict(images)} == {"lime"}
