"""Trackio's runs as a logger of Lightning's, which neither of the two libraries has."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only


class TrackioLogger(Logger):
    """Logs to a project of Trackio, on this machine or in a Space of Hugging Face.

    Args:
        project: whose runs are shown together.
        name: of a new run.
        version: the name of a run that goes on.
        space_id: USER/SPACE, where the runs are not to stay on this machine.
        save_dir: is not used: Trackio keeps all its projects in one folder, $TRACKIO_DIR.
    """

    def __init__(
        self,
        project: str,
        name: str | None = None,
        version: str | None = None,
        space_id: str | None = None,
        save_dir: str | None = None,
    ) -> None:
        super().__init__()
        self._project, self._name, self._version, self._space_id = project, name, version, space_id
        self._run: Any = None

    @property
    def name(self) -> str:
        """The project."""
        return self._project

    @property
    def version(self) -> str | None:
        """The run's name."""
        return self._version or self._name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """Trackio's run, which begins or goes on with the first call."""
        import trackio

        if self._run is None:
            self._run = trackio.init(
                self._project, name=self.version, resume="allow" if self._version else "never", space_id=self._space_id,
                embed=False, auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Record the configuration. Trackio sends it with the first metrics."""
        self.experiment.config.update(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the metrics of a step."""
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_image(self, key: str, images: Sequence[Any], step: int | None = None) -> None:
        """Log one image (H, W, 3) of bytes; the arguments are those of Lightning's WandbLogger."""
        import trackio

        (image,) = images
        self.experiment.log({key: trackio.Image(image)}, step=step)
