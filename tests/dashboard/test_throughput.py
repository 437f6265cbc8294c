import json
import time

import pytest
import torch
from support.events import read

from convnets.dashboard.throughput import peak_flops
from convnets.data.sampling import ImageBatches
from convnets.training.train import train

LENET_MULTIPLY_ADDS = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10


@pytest.fixture
def watched(small, tmp_path):
    only = [f"callbacks.{name}=null" for name in ("progress", "time_estimate", "curves", "norms", "dashboard")]
    path = f"callbacks.throughput.peaks_path={tmp_path}/cache/peaks.json"
    return small("callbacks=default", "logger=tensorboard", *only, path)


def scalars(path, name):
    return [point.value for point in read(path).Scalars(name)]


def test_gflops_follow_from_the_images_per_second(watched, tmp_path):
    train(watched, tmp_path / "run")
    speeds = scalars(tmp_path / "run", "images_per_second")
    gflops = scalars(tmp_path / "run", "throughput/model_gflops")
    assert gflops == pytest.approx([speed * LENET_MULTIPLY_ADDS * 2 * 3 / 1e9 for speed in speeds])
    (peak,) = json.loads((tmp_path / "cache" / "peaks.json").read_text()).values()
    percent = scalars(tmp_path / "run", "throughput/peak_percent")
    assert percent == pytest.approx([100 * flops * 1e9 / peak for flops in gflops])


def test_waiting_for_data_is_measured(watched, tmp_path, monkeypatch):
    fetch = ImageBatches.__getitem__
    monkeypatch.setattr(ImageBatches, "__getitem__", lambda self, numbers: (time.sleep(0.3), fetch(self, numbers))[1])
    train(watched, tmp_path / "run")
    for percent in scalars(tmp_path / "run", "throughput/data_wait_percent"):
        assert 50 < percent < 100


def test_the_highest_peak_is_kept_and_measuring_draws_no_random_numbers(tmp_path):
    path = tmp_path / "new" / "peaks.json"
    state = torch.get_rng_state()
    measured = peak_flops(torch.device("cpu"), "32-true", path)
    assert torch.equal(torch.get_rng_state(), state)
    assert 1e8 < measured < 1e14
    ((key, kept),) = json.loads(path.read_text()).items()
    assert kept == measured
    path.write_text(json.dumps({key: 7.0}))  # of a busy machine
    again = peak_flops(torch.device("cpu"), "32-true", path)
    assert json.loads(path.read_text()) == {key: again}
    assert again > 1e8
    path.write_text(json.dumps({key: 1e18}))  # of an idle one
    assert peak_flops(torch.device("cpu"), "32-true", path) == 1e18
    assert peak_flops(torch.device("cpu"), "bf16-mixed", path) < 1e18  # another key
    assert len(json.loads(path.read_text())) == 2


@pytest.mark.parametrize("content", ["{", ""])
def test_a_damaged_file_of_peaks_is_measured_anew(tmp_path, content):
    path = tmp_path / "peaks.json"
    path.write_text(content)
    measured = peak_flops(torch.device("cpu"), "32-true", path)
    assert [*json.loads(path.read_text()).values()] == [measured]
    assert measured > 1e8


def test_a_home_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert peak_flops(torch.device("cpu"), "32-true", tmp_path / "file" / "peaks.json") > 1e8
