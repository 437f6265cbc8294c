import numpy as np
import pytest
import torch
from PIL import Image

from convnets.configuration.rules import ConfigurationError
from convnets.results.leaderboard import build_leaderboard
from convnets.results.picture import look, write_picture
from convnets.results.trained_run import TrainedRun as Run
from convnets.runs.run import read_run
from convnets.training.train import train


def test_the_picture_shows_what_the_best_network_makes_of_an_image(small, tmp_path):
    train(small("trainer.max_epochs=1", "model.activation=relu"), tmp_path / "run")
    run = Run(tmp_path / "run")
    sight = look(run)
    weights = run.classifier.network.state_dict()["0.weight"]
    np.testing.assert_array_equal(sight.kernels, weights.squeeze(1).numpy())
    image = torch.from_numpy(sight.image).permute(2, 0, 1)[None]
    with torch.inference_mode():
        scores = run.classifier(run.datamodule.to_network_input(image))
    np.testing.assert_allclose(sight.probabilities, scores[0].softmax(0).numpy(), rtol=1e-4)
    assert sight.label == run.datamodule.class_names[int(scores.argmax())]  # of 100 images, it gets some right
    assert (sight.maps.shape, sight.maps.min() < 0) == ((6, 28, 28), True)  # before the activation
    path = write_picture(build_leaderboard([read_run(run.path)]), tmp_path)
    with Image.open(path) as picture:
        assert picture.size == (1320, 484)


def test_without_a_finished_run_there_is_no_picture(make_run, tmp_path):
    path = make_run(state="failed")
    with pytest.raises(ConfigurationError, match=r"--picture draws finished runs, and there is none yet\."):
        write_picture(build_leaderboard([read_run(path)]), tmp_path)
