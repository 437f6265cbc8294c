import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from convnets.data import FashionMNISTSampleDataModule
from convnets.prediction import Prediction, Refusal, as_records, as_table, find_pictures, predict, read_picture
from convnets.runs import Run
from convnets.training import train

IMAGES, LABELS = FashionMNISTSampleDataModule().read_split("test")
BOOT = IMAGES[0, 0].numpy()


def saved(tmp_path, image, name="picture.png"):
    image.save(tmp_path / name)
    return tmp_path / name


def large(image=BOOT):
    return Image.fromarray(image).resize((280, 280), Image.Resampling.NEAREST)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(BOOT),
        Image.fromarray(BOOT).convert("RGB"),
        Image.fromarray(BOOT).convert("P"),
        Image.fromarray(BOOT).convert("RGBA"),
        Image.fromarray(BOOT).convert("LA"),
        Image.fromarray(BOOT.astype(np.uint16) * 257),
        Image.merge("RGBA", [Image.new("L", (28, 28), 255)] * 3 + [Image.fromarray(BOOT)]),
    ],
    ids=lambda image: image.mode,
)
def test_a_picture_of_the_very_size_is_taken_pixel_by_pixel(tmp_path, image):
    see_through = image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
    found, background = read_picture(saved(tmp_path, image), 28, "black" if see_through else "auto")
    assert background == "black"
    np.testing.assert_array_equal(found, BOOT)


def test_a_white_background_is_noticed_and_turned_black(tmp_path):
    path = saved(tmp_path, ImageOps.invert(Image.fromarray(BOOT)))
    found, background = read_picture(path, 28)
    assert background == "white"
    np.testing.assert_array_equal(found, BOOT)
    as_it_is, background = read_picture(path, 28, "black")
    assert background == "black"
    np.testing.assert_array_equal(as_it_is, 255 - BOOT)


@pytest.mark.parametrize("margin", [(0, 0), (100, 30), (5, 200)])
def test_margins_are_trimmed_and_the_object_centred(tmp_path, margin):
    plain, _ = read_picture(saved(tmp_path, large()), 28)
    framed, _ = read_picture(saved(tmp_path, ImageOps.expand(ImageOps.invert(large()), margin, 255)), 28)
    np.testing.assert_array_equal(framed, plain)
    columns, rows = (np.flatnonzero(framed.max(axis=axis) > 12) for axis in (0, 1))
    assert max(np.ptp(columns), np.ptp(rows)) == 27
    assert abs((27 - columns[-1]) - columns[0]) <= 1
    assert abs((27 - rows[-1]) - rows[0]) <= 1


def test_a_photograph_on_its_side_is_set_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    large().rotate(90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    found, _ = read_picture(tmp_path / "turned.jpg", 28)
    plain, _ = read_picture(saved(tmp_path, large()), 28)
    assert np.abs(found.astype(int) - plain).mean() < 3


def test_a_blank_picture_is_taken_as_it_is(tmp_path):
    found, background = read_picture(saved(tmp_path, Image.new("L", (50, 20), 255)), 28)
    assert background == "white"
    assert found.max() == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory, small):
    path = tmp_path_factory.mktemp("runs") / "run"
    train(small("optimizer=adamw", "model.lr=0.01", "trainer.limit_train_batches=null", "trainer.max_epochs=20"), path)
    return Run(path)


def test_predictions_are_the_networks_probabilities(run, tmp_path):
    (answer,) = predict(run, [saved(tmp_path, Image.fromarray(BOOT))])
    scores = run.classifier(run.datamodule.to_network_input(IMAGES[:1]))
    expected = scores[0].softmax(dim=0).topk(3)
    names = run.datamodule.class_names
    assert [name for name, _ in answer.top] == [names[index] for index in expected.indices]
    assert [probability for _, probability in answer.top] == pytest.approx(expected.values.tolist())


def test_pictures_enlarged_and_framed_are_recognised_as_well(run, tmp_path):
    def accuracy(make):
        paths = [saved(tmp_path, make(image[0].numpy()), f"{number}.png") for number, image in enumerate(IMAGES)]
        best = [answer.top[0][0] for answer in predict(run, paths)]
        return np.mean([name == run.datamodule.class_names[label] for name, label in zip(best, LABELS, strict=True)])

    plain = accuracy(Image.fromarray)
    framed = accuracy(lambda image: ImageOps.expand(ImageOps.invert(large(image)), (40, 90), 255).convert("RGB"))
    assert plain > 0.6
    assert framed > plain - 0.05


def test_what_is_no_picture_is_named_and_the_others_are_answered(run, tmp_path):
    good = saved(tmp_path, large())
    (tmp_path / "text.png").write_text("no picture")
    buffer = io.BytesIO()
    large().save(buffer, "PNG")
    (tmp_path / "torn.png").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    absent = tmp_path / "absent.jpg"
    answers = list(predict(run, [*find_pictures([tmp_path]), absent]))
    assert [type(answer) for answer in answers] == [Prediction, Refusal, Refusal, Refusal]
    assert answers[0].path == good
    assert [refusal.reason for refusal in answers[1:]] == [
        "is no picture that can be read",
        answers[2].reason,
        "there is no such file",
    ]
    assert "truncated" in answers[2].reason or "broken" in answers[2].reason
    assert str(good) in as_table(answers)
    assert as_records(answers)[0]["assumed_background"] == "black"
    assert as_records(answers)[3] == {"file": str(absent), "error": "there is no such file"}


def test_a_folder_without_pictures_is_named(run, tmp_path):
    (answer,) = predict(run, find_pictures([tmp_path]))
    assert answer == Refusal(tmp_path, "there is no PNG or JPEG file in it")


def test_folders_are_searched_for_pictures(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.PNG", "a.jpeg", "deep/c.jpg", "notes.txt"):
        (tmp_path / name).write_text("")
    assert find_pictures([tmp_path]) == [tmp_path / "a.jpeg", tmp_path / "b.PNG", tmp_path / "deep" / "c.jpg"]
