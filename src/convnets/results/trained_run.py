"""A trained run: its folder, its network with the weights of the training, and its images."""

import functools
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import safetensors.torch
import torch

from convnets.classifier import Classifier
from convnets.data import DataUnavailableError, ImageDataModule
from convnets.files import RunFolderError
from convnets.results.prediction import Images, Prediction, Refusal, predict
from convnets.runs.finding import find_run
from convnets.runs.images import changed_images
from convnets.runs.run import Run
from convnets.runs.sources import changed_sources
from convnets.training.building import build_classifier, build_datamodule
from convnets.training.instantiation import refusals_explained

log = logging.getLogger(__name__)


class TrainedRun(Run):
    """A run whose network and images are built when they are first asked for."""

    def build_datamodule(self) -> ImageDataModule:
        """The run's set without its images, which may be gone: its classes and the preparation of images."""
        datamodule = build_datamodule(self.config)
        datamodule.take_facts(self.facts)
        return datamodule

    def images_digest(self) -> str | None:
        """The digest of the images that were read, or else would be; None where it is not known before."""
        with suppress(DataUnavailableError):
            return (vars(self).get("datamodule") or self.build_datamodule()).digest
        return None

    @functools.cached_property
    def datamodule(self) -> ImageDataModule:
        """The run's images, read into memory.

        Raises:
            ConfigurationError: they are damaged, or not as the configuration says.
            RunFolderError: they are of other classes than those that it was trained on.
        """
        datamodule = self.build_datamodule()
        datamodule.prepare_data()
        with refusals_explained():
            datamodule.setup()
        if changed := changed_images(self.path, facts := datamodule.facts()):
            if facts["class_names"] != self.facts["class_names"]:
                raise RunFolderError(changed)
            log.warning("%s", changed)
        return datamodule

    @functools.cached_property
    def classifier(self) -> Classifier:
        """The trained network, in evaluation mode, on the CPU.

        Raises:
            RunFolderError: the run has no weights yet, or they are not those of its network.
        """
        path = self.path / "weights.safetensors"
        if not path.exists():
            raise RunFolderError(f"{self} has no weights: {self.standing()}.")
        if changed := changed_sources(self.path, self.stored_config):
            log.warning("%s was trained by other code than there is now: %s.", self, ", ".join(changed))
        with torch.random.fork_rng(devices=[]):  # building draws the weights that are replaced here
            classifier = build_classifier(self.config, self.build_datamodule())
        try:
            classifier.network.load_state_dict(safetensors.torch.load_file(path))
        except (RuntimeError, safetensors.SafetensorError) as error:
            raise RunFolderError(f"{path} does not hold the weights of {self}/config.yaml: {error}") from error
        return classifier.eval()

    def predict(self, images: Images | Iterable[Images], background: str = "auto") -> list[Prediction]:
        """What each image is taken for: arrays of bytes, tensors, PIL images, files, or several of them.

        For the shapes that arrays may have, and what is done with a picture, see `convnets.results.prediction.predict`.

        Args:
            background: of pictures for Fashion-MNIST, "black" or "white"; "auto" takes what most of the border is.

        Raises:
            ValueError: one is no image, or there is no telling what the axes of an array are.
        """
        answers = predict(self.classifier, self.build_datamodule(), images, background)
        for answer in answers:
            if isinstance(answer, Refusal):
                raise ValueError(f"{answer.path or 'An image'}: {answer.reason}.")
        return [answer for answer in answers if isinstance(answer, Prediction)]


def load_run(run: str | Path, trust: Sequence[str] = ()) -> TrainedRun:
    """Find a run's folder, whose config, metrics, classifier and datamodule can then be used.

    Args:
        run: a folder, a folder's name in outputs/, "latest", or "best:SWEEP" (the highest validation accuracy).
        trust: names of classes that its configuration may call beside those in conf/.

    Raises:
        RunFolderError: there is no such run.
    """
    return TrainedRun(find_run(run), trust)
