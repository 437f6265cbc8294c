"""Checkpoints that are whole or not there, written inside epochs too, and on a signal."""

import io
import logging
import os
import pickle
import signal
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import FrameType
from typing import Any, Self, cast

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from convnets.callbacks.finite_loss import check_finite
from convnets.callbacks.history import History
from convnets.callbacks.logged import LoggedSoFar
from convnets.classifier import Classifier
from convnets.files import removal, replacing

log = logging.getLogger(__name__)

FORMAT = 1  # of what this module adds to Lightning's checkpoint, under "convnets"
STATE = ("best_accuracy", "best_epoch", "saving_seconds", "num_saved")  # attributes that a checkpoint keeps
# Steps after which the ranks first ask each other whether to save; then about once in so many seconds.
FIRST_AGREEMENT_STEPS, AGREEMENT_SECONDS = 10, 1.0


class CheckpointError(RuntimeError):
    """Training cannot resume from this checkpoint; the text says why and what to do."""


class DamagedCheckpointError(CheckpointError):
    """The file is torn, or differs from what was written."""


class CheckedCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all; loads one that is what was written, of tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint beside `path`, flush it to disk, keep the old one as previous.ckpt, then rename."""
        path = Path(path)
        path.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)  # not into the file: torch hides its errors behind others
        with replacing(path) as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
            if path.name == "last.ckpt" and path.exists():
                path.replace(path.with_name("previous.ckpt"))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: Any = True) -> dict[str, Any]:
        """Read a checkpoint; see `read_checkpoint`."""
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `CheckedCheckpointIO` wrote, by the checksums that its zip archive holds. Nothing in the file is run.

    Raises:
        DamagedCheckpointError: it is not what was written.
        CheckpointError: it holds more than tensors and plain values, or was written by another version of this.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with zipfile.ZipFile(content) as archive:
            # Beside the checksums, the attributes: by one of their bits torch takes a tensor for an empty folder.
            differs = archive.testzip() is not None or any(entry.external_attr for entry in archive.infolist())
    except Exception as error:  # zipfile fails in many ways on damaged headers
        raise DamagedCheckpointError(f"{path} is not whole") from error
    if differs:
        raise DamagedCheckpointError(f"{path} is not what was written: its checksum differs")
    content.seek(0)
    try:
        checkpoint = torch.load(content, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, so it was not loaded: it may run code. {reason}"
        ) from error
    except RuntimeError as error:
        if "PytorchStreamReader" not in str(error):  # such as out of memory
            raise
        raise DamagedCheckpointError(f"{path} is not whole") from error  # in headers that zipfile does not read
    written = checkpoint.get("convnets", {}) if isinstance(checkpoint, dict) else {}
    if written.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was written by another version of this project (format {written.get('format')}, not {FORMAT}). "
            f"{_way_out(path)}"
        )
    return checkpoint


def _way_out(path: Path) -> str:
    return f"Go on with that version, or train anew: {removal(path.parent)}"


def newest_checkpoint(checkpoints_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """Find the checkpoint to resume from, and read it. A damaged one is set aside with a warning.

    Raises:
        CheckpointError: the checkpoint is whole, but training cannot resume from it.
    """
    for name in ("last.ckpt", "previous.ckpt"):
        path = checkpoints_dir / name
        try:
            return path, read_checkpoint(path)
        except FileNotFoundError:
            continue
        except DamagedCheckpointError as error:
            aside = path.with_name(f"{name}.damaged")
            path.replace(aside)
            log.warning("%s; it was set aside as %s.", error, aside.name)
    return None


def check_fits(checkpoint: dict[str, Any], classifier: Classifier, num_ranks: int, path: Path) -> None:
    """Refuse a checkpoint that this training cannot resume from.

    Raises:
        CheckpointError: the checkpoint is of another network, or of another number of processes.
    """
    saved = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    built = {name: tuple(value.shape) for name, value in classifier.state_dict().items()}
    if differing := sorted(name for name in {*saved, *built} if saved.get(name) != built.get(name)):
        name = differing[0]
        raise CheckpointError(
            f"{path} is of another network: {name} is {saved.get(name, 'absent')} there, {built.get(name, 'absent')} "
            f"here ({len(differing)} of {len({*saved, *built})} tensors differ). {_way_out(path)}"
        )
    if (saved_ranks := checkpoint["convnets"]["processes"]) != num_ranks:
        raise CheckpointError(
            f"{path} was written by a training in {saved_ranks} processes, and this would be one in {num_ranks}. Go on "
            f"where there are as many devices as then, or train anew: {removal(path.parent)}"
        )


def _circumstances(trainer: Trainer) -> dict[str, Any]:
    """Everything outside the configuration that decides the last bits of a result."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "device": name,
        "torch": str(torch.__version__),
    }


class Interrupted(SystemExit):
    """Ends a process that a signal interrupted, once the run is saved. The code is 128 + signal, as in a shell."""


class _Signals:
    """Notes the first SIGINT or SIGTERM, so that the training can save; the second ends the process at once."""

    def __init__(self) -> None:
        self.received = 0
        self._replaced: dict[int, Any] = {}

    def watch(self, prints: bool) -> None:
        """Replace the handlers; only one process says what a signal does."""
        if threading.current_thread() is threading.main_thread():
            self._prints = prints
            self._replaced = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def release(self) -> None:
        """Put the handlers back."""
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        self._replaced = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # the progress bar has hidden the cursor
            os._exit(128 + number)
        self.received = number
        if self._prints:  # not through a buffered stream, in whose midst the signal may have come
            os.write(
                2, b"\n%s: saving, then leaving. Once more leaves at once.\n" % signal.Signals(number).name.encode()
            )


class Checkpoints(Checkpoint):
    """Keeps what a run needs to resume in last.ckpt, and the checkpoint before it in previous.ckpt.

    Saves at the end of each epoch, inside it every `every_seconds`, and after the step in which SIGINT or SIGTERM came;
    then raises Interrupted. With `keep_best` the epoch of the highest validation accuracy is in best.ckpt.

    Derived from Lightning's Checkpoint, whose hooks run after those of all other callbacks.

    Attributes:
        saving_seconds: spent on saving so far, in earlier processes of the run too. Other callbacks find it among
            `trainer.checkpoint_callbacks`.
    """

    def __init__(self, dir: Path, keep_best: bool = False, every_seconds: float = 60) -> None:
        self.last_path = dir / "last.ckpt"
        self.best_path = dir / "best.ckpt"
        self.keep_best = keep_best
        self.every_seconds = every_seconds
        self.best_accuracy = -1.0
        self.best_epoch = 0
        self.saving_seconds = 0.0
        self.num_saved = 0
        self._logged = LoggedSoFar()
        self._signals = _Signals()
        self.ended = False  # whether the training came to its end in this process
        self._should_stop = False  # what the checkpoint says that training resumes from
        self._saved = self._agreed = 0.0  # when
        self._steps_to_agreement = self._steps_since = FIRST_AGREEMENT_STEPS

    @classmethod
    def of(cls, trainer: Any) -> Self:
        """The trainer's own."""
        return next(callback for callback in trainer.callbacks if isinstance(callback, cls))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch for signals: not earlier, for Lightning sets handlers of its own. Stop what was to be stopped."""
        assert isinstance(pl_module, Classifier)
        trainer.should_stop = trainer.should_stop or self._should_stop
        self._logged.restore(trainer, pl_module)
        self._signals.watch(prints=trainer.is_global_zero)
        self._saved = self._agreed = time.monotonic()
        self._steps_to_agreement, self._steps_since = FIRST_AGREEMENT_STEPS, 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save inside the epoch, if it is time or a signal came.

        Not after the epoch's last batch, whose validation would never be run on resuming, and not between the batches
        of one accumulated step, whose gradients are in no checkpoint.
        """
        self._logged.join(trainer)
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        due = int(time.monotonic() - self._saved >= self.every_seconds)
        received = self._signals.received
        if trainer.world_size > 1:
            self._steps_since += 1
            if self._steps_since < self._steps_to_agreement:
                return
            received, due = self._agreed_on(received, due, pl_module.device)
        if due or received:
            check_finite(trainer, pl_module, "train")
            self._save(trainer, self.last_path)
            self._leave_if_asked(trainer, received)

    def _agreed_on(self, received: int, due: int, device: torch.device) -> tuple[int, int]:
        """The highest signal, and whether to save, over all ranks; they wait for each other, so this is done rarely."""
        pace = self._steps_since / max(time.monotonic() - self._agreed, 1e-6)
        wishes = torch.tensor([float(received), float(due), -pace * AGREEMENT_SECONDS], device=device)
        torch.distributed.all_reduce(wishes, torch.distributed.ReduceOp.MAX)  # the strategy's has a barrier besides
        received, due, steps = map(int, wishes.tolist())
        self._agreed, self._steps_since, self._steps_to_agreement = time.monotonic(), 0, max(-steps, 1)
        return received, due

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the epoch's row written, then save the epoch; of equally good epochs the first is the best."""
        assert isinstance(pl_module, Classifier)
        History.of(trainer).end_epoch(trainer, pl_module)
        self._logged = LoggedSoFar()
        accuracy = pl_module.metrics("val").get("val/accuracy", -1.0)  # unless the epoch is not validated
        if self.keep_best and accuracy > self.best_accuracy:
            self.best_accuracy = accuracy
            self.best_epoch = trainer.current_epoch + 1
            self._save(trainer, self.best_path)
        self._save(trainer, self.last_path)
        received = torch.tensor(float(self._signals.received), device=pl_module.device)
        self._leave_if_asked(trainer, int(trainer.strategy.reduce(received, reduce_op="max")))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Obey signals again."""
        self._signals.release()
        self._leave_if_asked(trainer, self._signals.received)
        self.ended = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Obey signals again."""
        self._signals.release()

    def _save(self, trainer: Trainer, path: Path) -> None:
        started = time.monotonic()
        trainer.save_checkpoint(path)
        self._saved = time.monotonic()
        self.saving_seconds += self._saved - started
        self.num_saved += 1

    def _leave_if_asked(self, trainer: Trainer, received: int) -> None:
        if received:
            # With code 0 on the others: Lightning kills rank 0 where another ends with an error.
            raise Interrupted(128 + received if trainer.is_global_zero else 0)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add every rank's running sums of training metrics, and what decides the last bits."""
        assert isinstance(pl_module, Classifier)
        gathered = {
            name: trainer.strategy.all_gather(cast(Tensor, value)).reshape(trainer.world_size).tolist()
            for name, value in pl_module.train_tally.metric_state.items()
        }
        logged = self._logged.state(trainer, pl_module)
        own = {"format": FORMAT, "train_tally": gathered, "logged": logged, "should_stop": trainer.should_stop}
        checkpoint["convnets"] = {**own, **_circumstances(trainer)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the running sums; warn where the result will not be the same to the last bit."""
        assert isinstance(pl_module, Classifier)
        written = checkpoint["convnets"]
        for name, value in _circumstances(trainer).items():
            if written[name] != value and trainer.is_global_zero:
                log.warning(
                    "This training began with %s %s and goes on with %s: the last bits of its result will differ from "
                    "those of a training without interruption.", name, written[name], value,
                )  # fmt: skip
        self._should_stop = written.get("should_stop", False)
        self._logged.load(written.get("logged"), trainer.global_rank)
        for name, values in written["train_tally"].items():
            getattr(pl_module.train_tally, name).fill_(values[trainer.global_rank])

    def state_dict(self) -> dict[str, Any]:
        """The best epoch, and what saving cost."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over from a checkpoint."""
        for name in STATE:
            setattr(self, name, state_dict[name])
