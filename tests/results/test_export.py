import json

import numpy as np
import onnxruntime
import pytest
import torch
from omegaconf import OmegaConf

from convnets.results import export as exporting
from convnets.results.export import ExportError, export
from convnets.results.trained_run import TrainedRun as Run
from convnets.training.train import train


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("onnx", ("model=resnet18", "data.resize=40")),
        ("torch", ("model=lenet",)),
        pytest.param("onnx", ("model=lenet",), marks=pytest.mark.slow),
        pytest.param("torch", ("model=resnet18", "data.resize=40"), marks=pytest.mark.slow),
    ],
)
def test_an_exported_program_gives_the_runs_scores_from_bytes(small, tmp_path, to, words):
    train(small(*words, "trainer.max_epochs=1"), tmp_path / "run")
    run = Run(tmp_path / "run")
    exported = export(run, to)
    path = exported.path
    images = run.datamodule.splits["train"].stored[:37]  # of another number than it was exported with
    with torch.inference_mode():
        expected = run.classifier(run.datamodule.to_network_input(images)).numpy()
    if to == "onnx":
        session = onnxruntime.InferenceSession(str(path))
        (scores,) = session.run(None, {"images": images.numpy()})
        metadata = session.get_modelmeta().custom_metadata_map
    else:
        metadata = dict.fromkeys(exporting.METADATA, "")
        scores = torch.export.load(path, extra_files=metadata).module()(images).detach().numpy()
    assert {name: json.loads(metadata[name]) for name in exporting.METADATA} == {
        "class_names": list(run.datamodule.class_names), "image_size": 28, "num_channels": 1, "run": "run",
    }  # fmt: skip
    np.testing.assert_allclose(scores, expected, atol=1e-3 * np.abs(expected).max())
    assert f"{path}: images (N, 1, 28, 28) of bytes to scores (N, 10); the same classes as the run's for 100" in str(
        exported
    )


def test_the_printed_shapes_are_those_of_the_program(small, tmp_path):
    config = small("data.resize=40", "data.batch_size=30")
    OmegaConf.update(config, "data._target_", "support.fruit.FruitDataModule")
    train(config, tmp_path / "run")
    run = Run(tmp_path / "run", trust=["support.fruit.FruitDataModule"])
    exported = export(run, "onnx")
    session = onnxruntime.InferenceSession(str(exported.path))
    assert session.get_inputs()[0].shape[1:] == [3, 32, 32]
    assert session.get_outputs()[0].shape[1:] == [3]
    said = "images (N, 3, 32, 32) of bytes to scores (N, 3); the same classes as the run's for 12 test images"
    assert said in str(exported)
    assert "run, as JSON, in onnxruntime's session.get_modelmeta().custom_metadata_map" in str(exported)


def test_a_program_that_gives_other_scores_is_not_put_in_place(small, tmp_path, monkeypatch):
    train(small("trainer.max_epochs=1"), tmp_path / "run")
    path = export(Run(tmp_path / "run"), "torch").path
    before = path.read_bytes()
    run_torch = exporting._run_torch
    monkeypatch.setattr(exporting, "_run_torch", lambda path, images: run_torch(path, images.flip(0)))
    with pytest.raises(ExportError, match=r"gave other scores on 100 images .* so it was not put in place"):
        export(Run(tmp_path / "run"), "torch")
    assert path.read_bytes() == before
    assert not list((tmp_path / "run").glob(".incoming*"))
