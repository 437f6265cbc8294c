import json

import pytest

from convnets.runs.images import changed_images

KNOWN = {"class_names": ["apple", "lime", "plum"], "num_images": {"train": 9, "test": 3}, "digest": "a"}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"class_names": ["apple", "fig", "plum"]}, "classes removed: lime; classes added: fig"),
        ({"class_names": ["plum", "apple", "lime"]}, "the classes are in another order"),
        (
            {"num_images": {"train": 8, "test": 3}, "digest": "b"},
            "num_images was {'train': 9, 'test': 3} and is {'train': 8, 'test': 3}; digest was a and is b",
        ),
    ],
)
def test_how_images_have_changed_is_said(tmp_path, change, found):
    facts = {**KNOWN, **change}
    assert changed_images(tmp_path, facts) == ""  # of a run that keeps no record
    (tmp_path / "data.json").write_text(json.dumps(KNOWN))
    assert changed_images(tmp_path, KNOWN) == ""
    assert changed_images(tmp_path, facts) == f"The images of {tmp_path} have changed since it began: {found}."


def test_of_many_classes_the_first_are_named(tmp_path):
    (tmp_path / "data.json").write_text(json.dumps(KNOWN))
    said = changed_images(tmp_path, {**KNOWN, "class_names": [f"class_{number}" for number in range(2000)]})
    assert "; classes added: class_0, class_1, class_10, " in said
    assert len(said) < 400
