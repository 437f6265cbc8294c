"""Architectures of timm, of which those named test_ are small."""

import sys
from importlib.util import find_spec

import pytest
import safetensors.torch
import torch

from convnets.callbacks import read_checkpoint
from convnets.configuration.rules import ConfigurationError
from convnets.networks import head_of
from convnets.networks.timm import create, pretrained_weights
from convnets.results.trained_run import load_run
from convnets.training.building import build_classifier, build_datamodule
from convnets.training.command import compose as compose_and_name
from convnets.training.layer_summary import describe_network
from convnets.training.train import train

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="needs the extra timm: pip install timm")


def test_without_timm_the_command_that_installs_it_is_said(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    config = small("model=timm")
    with pytest.raises(ConfigurationError, match=r"^model=timm needs the extra `timm`: .*python -m pip install"):
        build_classifier(config, build_datamodule(config))


@needs_timm
@pytest.mark.parametrize("arch", ["test_convnext", "test_vit", "test_efficientnet.r160_in1k", "levit_128s"])
def test_an_architecture_takes_these_images_and_classes(arch):
    with torch.device("meta"):
        network = create(arch, image_size=64, in_channels=1, num_classes=7)
        assert network.eval()(torch.empty(2, 1, 64, 64)).shape == (2, 7)
        assert all(parameter.shape[0] == 7 for parameter in head_of(network).parameters() if parameter.ndim == 2)


@needs_timm
@pytest.mark.parametrize(
    ("arch", "side", "said"),
    [
        ("convnext_tinny", 224, r"timm has no architecture convnext_tinny. Did you mean convnext_tiny or "),
        (
            "swin_tiny_patch4_window7_224",
            3,
            r"does not take images of 3x3x3 \(.*data.resize=224 is what it was",
        ),
        ("resnet18.nope", 64, r"^timm has no weights nope of resnet18: set model.arch=resnet18"),
    ],
)
def test_what_timm_does_not_have_or_take_is_said(arch, side, said):
    with pytest.raises(ValueError, match=said):
        create(arch, image_size=side)


@pytest.fixture
def file(tmp_path):
    """Weights for images in colour, of 160 pixels and 5 classes."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    state = timm.create_model("test_vit", num_classes=5).state_dict()
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    return tmp_path / "weights.safetensors"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_file_are_fitted_as_timm_does(file, suffix):
    import timm

    overlay = {"file": str(file), "num_classes": 5}
    expected = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5, in_chans=1, img_size=32
    ).state_dict()
    found = pretrained_weights("test_vit", 32, 1, file.with_suffix(suffix))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert found["patch_embed.proj.weight"].shape[1] == 1
    assert found["head.weight"].shape[0] == 5


def test_weights_of_another_architecture_or_out_of_reach_are_said(file, monkeypatch):
    import huggingface_hub

    with pytest.raises(ValueError, match=r"model.weights=.*weights.safetensors has no weights of test_convnext: "):
        pretrained_weights("test_convnext", 32, 1, file)
    torch.save(print, other := file.with_name("other.pth"))
    with pytest.raises(ValueError, match=r"model.weights=.*other.pth is no file of weights: give one of safetensors"):
        pretrained_weights("test_convnext", 32, 1, other)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(file.parent))
    with pytest.raises(ValueError, match=r"The weights of test_vit cannot be fetched \(.*model.weights=FILE in"):
        pretrained_weights("test_vit", 160, 3)


def test_fine_tuning_from_a_file_is_one_line_and_a_trained_run_needs_it_no_more(small, tmp_path, file, caplog):
    caplog.set_level("INFO")
    words = ["model=timm", "model.arch=test_vit", "data.resize=32", f"model.weights={file}", "model.freeze=backbone"]
    config = small(*words, "trainer.max_epochs=1", "checkpoint.keep=true")
    source = pretrained_weights("test_vit", 32, 1, file)
    train(config, tmp_path / "run")
    assert "head.weight is (5, 64) there and (10, 64) here: new" in caplog.text
    file.unlink()
    run = load_run(tmp_path / "run")
    found = run.classifier.network.state_dict()
    changed = {name for name, value in found.items() if not torch.equal(value, source[name])}
    assert changed == {"head.weight", "head.bias"}
    assert read_checkpoint(run.path / "checkpoints" / "last.ckpt")["global_step"] == 3
    assert run.result["versions"]["timm"]
    assert "VisionTransformer" not in describe_network(run.config)  # its layers, and not the whole


def test_a_file_of_weights_is_known_by_its_content(tmp_path):
    for name, weights in (("first", b"weights"), ("copy", b"weights"), ("other", b"others")):
        (tmp_path / f"{name}.pth").write_bytes(weights)

    def named(name):
        return compose_and_name(["model=timm", f"model.weights={tmp_path / name}.pth"])[1].rpartition("-")[2]

    assert named("first") == named("copy") != named("other")
    with pytest.raises(ConfigurationError, match=r"model.weights=.*/none.pth cannot be read: No such file"):
        named("none")
