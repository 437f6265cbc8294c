"""A run can be cut off at any instant, and resumes to the same bits."""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import lightning
import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf
from support import commands
from support.breaking import (
    EACH_STEP,
    KEPT,
    At,
    PulledPlugError,
    check_breaks_change_nothing,
    everything,
    interrupt,
    pull_the_plug,
    train_through,
)
from support.schedules import SCHEDULES
from support.waiting import wait_until

from convnets.callbacks import (
    CheckedCheckpointIO,
    CheckpointError,
    Interrupted,
    NothingInitializedError,
    read_checkpoint,
)
from convnets.configuration.rules import ConfigurationError
from convnets.files import RunFolderError
from convnets.results.trained_run import TrainedRun as Run
from convnets.training.ending import OutOfMemoryError, UnsupportedGpuError
from convnets.training.extend import extend
from convnets.training.train import train

SMALL_VGG = ("model.blocks=[[1,4],[1,8]]", "model.hidden=[32,32]", "data.resize=16")
WAYS = {
    "lenet": (),
    "lenet, schedule, momentum": ("schedule=onecycle", "optimizer=momentum"),
    "lenet, augmented, mixed, holdout": (
        "data.augment=[crop_flip,erase]",
        "data.mix=mixup",
        "data.normalize=standard",
        "data.holdout=100",
        "optimizer=adamw",
    ),
    "lenet, modern": (
        *("averaging=ema", "schedule=trapezoid", "optimizer=momentum", "optimizer.nesterov=true", "model.bias_lr=0.2"),
        *("optimizer.weight_decay=1e-3", "model.decayed=weights", "test_time_augmentation=mirror_shift"),
        *("loss.label_smoothing=0.1", "stopping=early", "data.holdout=100"),
    ),
    "lenet, accumulated": ("trainer.accumulate_grad_batches=2",),
    "lenet, several steps at once": (
        "steps_per_execution=3",
        "schedule=onecycle",
        "data.augment=random_resized_crop",
        "data.mix=cutmix",
    ),
    "vgg, dropout": ("model=vgg", *SMALL_VGG, "data.batch_size=250", "schedule=cosine"),
    "resnet18, batch norm": ("model=resnet18", "data.resize=16", "data.batch_size=400", "data.augment=shift_flip"),
    "resnext18": ("model=resnext18", "data.resize=32", "data.batch_size=300", "data.holdout=100"),
}


def num_steps(way):
    """The steps of an epoch, as Lightning counts them."""
    return 3 if "several" in way else {"vgg": 4, "res": 3}.get(way[:3], 8)


@pytest.mark.parametrize("way", [pytest.param(w, marks=pytest.mark.slow) if w == "resnext18" else w for w in WAYS])
def test_an_interrupted_run_ends_as_if_it_had_not_been_interrupted(small, tmp_path, way):
    """Cut off inside both epochs, and with SIGTERM in the last step of the first."""
    last = num_steps(way)
    config = small("trainer.limit_train_batches=null", "logger=tensorboard", KEPT, EACH_STEP, *WAYS[way])
    check_breaks_change_nothing(config, tmp_path, {2: pull_the_plug, last: interrupt, last + 2: pull_the_plug})


OFTEN = ("StepLR", "OneCycleLR", "SequentialLR by the step", "ReduceLROnPlateau of the training's accuracy")


@pytest.mark.parametrize("name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in SCHEDULES])
def test_any_schedule_resumes_to_the_same_bits(small, tmp_path, name):
    """Cut off inside epochs and at an epoch's end, and with SIGTERM in an epoch's last step."""
    config = small("logger=tensorboard", KEPT, EACH_STEP, "trainer.max_epochs=4", "trainer.limit_val_batches=1")
    config.schedule = SCHEDULES[name][0]
    check_breaks_change_nothing(config, tmp_path, {2: pull_the_plug, 3: interrupt, 4: pull_the_plug, 9: interrupt})


def test_an_accumulation_that_changes_resumes_to_the_same_bits(small, tmp_path):
    """Also inside an epoch, where Lightning does not ask the callback again how many batches it accumulates."""
    config = small("logger=tensorboard", KEPT, EACH_STEP, "trainer.limit_train_batches=8", "trainer.max_epochs=3")
    scheduler = "lightning.pytorch.callbacks.GradientAccumulationScheduler"
    config.callbacks = {"more": {"_target_": scheduler, "scheduling": {0: 1, 1: 2, 2: 4}}}
    check_breaks_change_nothing(config, tmp_path, dict.fromkeys((5, 11, 15, 21), pull_the_plug))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_any_step_of_any_network_may_be_the_last_one(small, tmp_path, way):
    config = small("trainer.limit_train_batches=null", "logger=tensorboard", KEPT, EACH_STEP, *WAYS[way])
    train(config, tmp_path / "whole")
    expected = everything(tmp_path / "whole")
    for step in range(1, 2 * num_steps(way)):
        for action in (pull_the_plug, interrupt):
            path = tmp_path / f"{action.__name__}{step}"
            with contextlib.suppress(PulledPlugError, Interrupted):  # a signal waits for the end of an accumulation
                train(config, path, [At(step, action)])
            train(config, path)
            assert everything(path) == expected, path.name


@pytest.mark.parametrize(
    ("way", "several", "options"),
    [
        *((way, 3, ()) for way in WAYS if way.startswith("lenet") and not re.search("several|accumulated", way)),
        *(pytest.param(way, 3, (), marks=pytest.mark.slow) for way in WAYS if way.startswith(("vgg", "resnet18"))),
        ("lenet", 3, ("trainer.precision=bf16-mixed",)),
        ("lenet, schedule, momentum", 100, ()),  # more than an epoch has
        ("lenet, schedule, momentum", 3, ("trainer.limit_train_batches=6",)),
        ("lenet, schedule, momentum", 3, ("trainer.limit_train_batches=9",)),  # likewise
    ],
)
def test_several_steps_at_once_are_the_same_steps(small, tmp_path, way, several, options):
    same = ("trainer.limit_train_batches=null", "trainer.gradient_clip_val=0.5", "logger=tensorboard", KEPT)
    watching = (
        *("callbacks=default", "callbacks.dashboard.images=false"),
        *("callbacks.throughput=null", "callbacks.curves=null"),
    )
    found = {}
    for steps in (1, several):
        config = small(*same, *watching, *WAYS[way], *options, f"steps_per_execution={steps}")
        train(config, tmp_path / f"{steps}")
        found[steps] = everything(tmp_path / f"{steps}")
        del found[steps]["counters"], found[steps]["result"]["config_hash"]
    assert found[several] == found[1]


@pytest.mark.parametrize(
    "breaks",
    [
        *(dict.fromkeys(range(1, 10), action) for action in (pull_the_plug, interrupt)),
        *(
            pytest.param({step: action}, marks=pytest.mark.slow)
            for step in range(1, 10)
            for action in (pull_the_plug, interrupt)
        ),
    ],
)
def test_any_step_may_be_the_last_one(small, tmp_path, breaks):
    config = small("logger=tensorboard", KEPT, EACH_STEP, "trainer.max_epochs=3", "data.holdout=100")
    check_breaks_change_nothing(config, tmp_path, breaks)


def test_a_run_cut_off_between_its_last_epoch_and_its_result_is_finished(small, tmp_path):
    config = small("logger=tensorboard", KEPT, "data.holdout=100")
    train(config, tmp_path)
    expected = everything(tmp_path)
    (tmp_path / "result.json").unlink()
    train(config, tmp_path)
    assert everything(tmp_path) == expected


def test_event_files_of_quick_resumes_are_named_by_different_seconds(small, tmp_path):
    config = small("logger=tensorboard", KEPT, EACH_STEP)
    train_through(config, tmp_path, dict.fromkeys((1, 2, 3), interrupt))
    files = sorted(tmp_path.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns)
    seconds = [int(path.name.split(".")[3]) for path in files]
    assert len(seconds) == 4
    assert seconds == sorted({*seconds})
    assert all(0 <= path.stat().st_mtime - second < 60 for path, second in zip(files, seconds, strict=True))


def test_a_signal_loses_no_step_and_says_how_to_go_on(small, tmp_path, capfd):
    config = small("trainer.limit_train_batches=null")
    with pytest.raises(Interrupted) as left:
        train(config, tmp_path, [At(5, interrupt)])
    assert left.value.code == 143
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 5
    assert Run(tmp_path).status["state"] == "interrupted"
    output = capfd.readouterr()
    assert "SIGTERM: saving, then leaving. Once more leaves at once." in output.err
    assert f"Interrupted: {tmp_path} keeps what there is. To go on: {Run(tmp_path).resume_command()}" in output.out
    train(Run(tmp_path).config, tmp_path)
    assert "going on after epoch 0, at step 5" in capfd.readouterr().out
    assert Run(tmp_path).status["resumed"] == 1
    assert not (tmp_path / "checkpoints").exists()


@pytest.fixture(scope="module")
def uninterrupted(small, tmp_path_factory):
    """What a training leaves that nothing disturbs."""
    path = tmp_path_factory.mktemp("uninterrupted")
    train(small("logger=tensorboard", KEPT, EACH_STEP), path)
    return everything(path)


def damaged(path, how):
    content = bytearray(path.read_bytes())
    if how == "torn":
        del content[len(content) // 3 :]
    elif how == "a flipped bit":
        content[len(content) // 2] ^= 4
    else:
        content.clear()
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["torn", "a flipped bit", "empty"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(small, uninterrupted, tmp_path, how, caplog):
    config = small("logger=tensorboard", KEPT, EACH_STEP)
    path = tmp_path / "run"
    with pytest.raises(PulledPlugError):
        train(config, path, [At(6, pull_the_plug)])
    damaged(path / "checkpoints" / "last.ckpt", how)
    train(config, path)
    assert re.search(r"last\.ckpt is not .*; it was set aside as last\.ckpt\.damaged", caplog.text)
    assert "going on after epoch 1, at step 4" in caplog.text
    assert (path / "checkpoints" / "last.ckpt.damaged").exists()
    assert everything(path) == uninterrupted


def test_where_no_checkpoint_is_whole_the_run_begins_anew(small, uninterrupted, tmp_path, caplog):
    config = small("logger=tensorboard", KEPT, EACH_STEP)
    path = tmp_path / "run"
    with pytest.raises(PulledPlugError):
        train(config, path, [At(6, pull_the_plug)])
    for name in ("last.ckpt", "previous.ckpt"):
        damaged(path / "checkpoints" / name, "torn")
    train(config, path)
    assert caplog.text.count("was set aside") == 2
    assert everything(path) == uninterrupted


def test_the_loss_of_the_best_epochs_weights_is_an_error(small, tmp_path):
    config = small("data.holdout=100")
    path = tmp_path / "run"
    with pytest.raises(Interrupted):
        train(config, path, [At(4, interrupt)])
    with pytest.raises(
        CheckpointError, match=r"The weights of the best epoch \(\d\) are lost: .* To train anew: rm -r"
    ):
        train(config, path, [At(5, (path / "checkpoints" / "best.ckpt").unlink), KeepBest()])


class KeepBest(lightning.Callback):
    """Makes the best epoch so far the best of all."""

    def on_train_start(self, trainer, pl_module):
        trainer.callbacks[-1].best_accuracy = 1.0


# Full disks, vanished folders, too little memory, divergence


def full_disk(path):
    """The kernel answers every write there with ENOSPC."""
    path.symlink_to("/dev/full")


@pytest.mark.parametrize("name", ["checkpoints/.last.ckpt.incoming", ".metrics.csv.incoming"])
def test_a_full_disk_is_one_clear_error_and_loses_nothing(small, uninterrupted, tmp_path, name):
    config = small("logger=tensorboard", KEPT, EACH_STEP)
    path = tmp_path / "run"
    incoming = path / name
    with pytest.raises(
        RunFolderError, match=r"cannot be written: No space left on device\. The last checkpoint is whole"
    ):
        train(config, path, [At(5, lambda: full_disk(incoming))])
    assert read_checkpoint(path / "checkpoints" / "last.ckpt")["global_step"] >= 4
    assert Run(path).status["state"] == "failed"
    assert not incoming.is_symlink()  # what was half written is gone, and its space free
    train(config, path)
    assert everything(path) == uninterrupted


class FilesEndAt(lightning.Callback):
    """From the second epoch's end on, the kernel refuses to write files beyond so many bytes."""

    def __init__(self, num_bytes):
        self.num_bytes = num_bytes
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_validation_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.num_bytes, self.before[1]))

    def on_exception(self, trainer, pl_module, exception):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_events_that_cannot_be_written_are_one_clear_error(small, tmp_path):
    config = small("logger=tensorboard", KEPT)
    path = tmp_path / "run"
    with pytest.raises(
        RunFolderError, match=r"run cannot be written: File too large\. .*To go on: python .*scripts/resume"
    ):
        train(config, path, [FilesEndAt(100)])
    train(config, path)
    train(config, tmp_path / "whole")
    assert everything(path) == everything(tmp_path / "whole")


def test_a_folder_that_vanishes_is_one_clear_error(small, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(RunFolderError, match=r"run has vanished during the training: nothing is left to go on from"):
        train(small(EACH_STEP), path, [At(4, lambda: shutil.rmtree(path))])
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody who may not write")
def test_a_read_only_folder_is_one_clear_error(small, tmp_path):
    for folder in (*reversed(tmp_path.parents[:3]), tmp_path):
        folder.chmod(0o755)
    config = small()
    os.seteuid(65534)
    try:
        with pytest.raises(RunFolderError, match=r"run cannot be written: Permission denied\. Choose another"):
            train(config, tmp_path / "run")
    finally:
        os.seteuid(0)


def test_out_of_memory_says_what_to_change(small, tmp_path):
    """The kernel refuses: the address space is limited to a little more than what is in use."""
    config = small("model=resnet18", "data.resize=256", "data.batch_size=1000")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2 * 10**9, limits[1]))
    try:
        with pytest.raises(OutOfMemoryError, match=r"batches of 1000 images of 256 pixels: set data\.batch_size=500 "):
            train(config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert Run(tmp_path).status["state"] == "out_of_memory"


class Fails(lightning.Callback):
    """Ends the training with an error, as the device does."""

    def __init__(self, error):
        self.error = error

    def on_train_batch_end(self, *_):
        raise self.error


CUDA_IS_FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 1 GiB is free. "
    "Process 7 has 78.12 GiB memory in use. Of the allocated memory 1.00 GiB is allocated by PyTorch."
)
DEVICE_ERRORS = {
    r"batch_size=64 .* \(CUDA out .* Tried to allocate 2\.00 GiB\. GPU 0 .* of which 1 GiB is free\.\)$": CUDA_IS_FULL,
    r"batch_size=64 .*CUBLAS_STATUS_ALLOC_FAILED": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`",
    r"no code for this GPU.* one that has": "CUDA error: no kernel image is available for execution on the device",
}


@pytest.mark.parametrize("told", DEVICE_ERRORS)
def test_an_error_of_the_device_is_told_in_words(small, tmp_path, told):
    with pytest.raises((OutOfMemoryError, UnsupportedGpuError), match=told):
        train(small(), tmp_path, [Fails(torch.AcceleratorError(DEVICE_ERRORS[told]))])


class RuinAt(lightning.Callback):
    """Makes the weights NaN before a training step, and so its loss."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self.step:
            with torch.no_grad():
                next(pl_module.parameters()).fill_(float("nan"))


@pytest.mark.parametrize(("words", "step"), [((), 8), ((EACH_STEP,), 10)])
def test_divergence_marks_the_run_failed_and_keeps_the_last_good_checkpoint(small, tmp_path, words, step):
    with pytest.raises(RuntimeError, match="diverged"):
        train(small("trainer.limit_train_batches=null", *words), tmp_path, [RuinAt(11)])
    assert Run(tmp_path).status["state"] == "failed"
    last = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert last["global_step"] == step
    assert all(weights.isfinite().all() for weights in last["state_dict"].values())


# Checkpoints and folders of another training


def interrupted_run(config, path):
    with pytest.raises(Interrupted):
        train(config, path, [At(2, interrupt)])
    return path / "checkpoints" / "last.ckpt"


def rewrite(path, change):
    """Change a checkpoint and write it as ours."""
    checkpoint = read_checkpoint(path)
    change(checkpoint)
    path.unlink()
    CheckedCheckpointIO().save_checkpoint(checkpoint, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("convnets"), r"written by another version of this project \(format None, not 1\)"),
        (
            lambda c: c["state_dict"].update({"network.0.weight": torch.zeros(3)}),
            r"of another network: network\.0\.weight is \(3,\) there, \(6, 1, 5, 5\) here \(1 of 10 tensors differ\)",
        ),
        (lambda c: c["convnets"].update(processes=4), r"by a training in 4 processes, and this would be one in 1"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_explained(small, tmp_path, change, message):
    path = interrupted_run(small(), tmp_path / "run")
    rewrite(path, change)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=rf"{message}.*rm -r"):
        train(small(), tmp_path / "run")
    assert path.read_bytes() == before


def test_another_torch_version_is_a_warning(small, tmp_path, caplog):
    path = interrupted_run(small(), tmp_path / "run")
    rewrite(path, lambda checkpoint: checkpoint["convnets"].update(torch="1.0"))
    train(small(), tmp_path / "run")
    assert "began with torch 1.0 and goes on with torch" not in caplog.text
    assert "This training began with torch 1.0 and goes on with" in caplog.text


def test_a_folder_of_another_unfinished_run_is_left_untouched(small, tmp_path):
    interrupted_run(small(), tmp_path / "run")
    before = {
        path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != ".lock"
    }
    with pytest.raises(RunFolderError, match=r"model\.lr: 0\.1 there, 0\.2 now"):
        train(small("model.lr=0.2"), tmp_path / "run")
    assert {path: path.read_bytes() for path in before} == before


# Extending, and starting from another run's weights


def test_an_extended_training_equals_one_that_was_as_long_from_the_start(small, tmp_path):
    train(small("logger=tensorboard", KEPT), tmp_path / "run")
    config = extend(Run(tmp_path / "run"), ["trainer.max_epochs=4"])
    train(config, tmp_path / "run")
    train(small("logger=tensorboard", KEPT, "trainer.max_epochs=4"), tmp_path / "whole")
    found, expected = everything(tmp_path / "run"), everything(tmp_path / "whole")
    assert found == expected
    assert len(found["rows"]) == 4


def test_a_refused_extension_says_why_and_what_can_be_done(small, tmp_path):
    train(small(KEPT, "schedule=cosine"), tmp_path / "planned")
    for change, message in (
        ("trainer.max_epochs=4", r"planned for 2 epochs \(torch\.optim\.lr_scheduler\.CosineAnnealingLR\)"),
        ("trainer.max_epochs=1", "less than the 2"),
        ("model.lr=1", r"model\.lr decides what is learned"),
        ("trainer.max_epochs=many", r"trainer\.max_epochs must be a whole number"),
        ("steps_per_execution=2", r"steps_per_execution is what its checkpoints count in, so .* cannot go on"),
        ("epochs=3", r"There is no key epochs\. Did you mean trainer\.max_epochs\?"),
        ("optimizer.nesterov=true", r"optimizer\.nesterov decides what is learned"),
        ("optimizer.nesterovv=true", r"There is no key optimizer\.nesterovv\. Did you mean optimizer\.nesterov\?"),
        ("nonsense", "is no KEY=VALUE"),
        ("trainer.max_epochs=[1", r"trainer\.max_epochs cannot be set to '\[1': it is no value"),
        ("trainer.max_epochs=4,5", r"trainer\.max_epochs cannot be set to '4,5': it is no value"),
        ("callbacks.mine=null", r"There is no key callbacks\.mine"),
        ("model=vgg", "model holds several keys, got 'vgg': set one of them"),
        ("callbacks=none", "callbacks holds several keys, got 'none'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            extend(Run(tmp_path / "planned"), [change])


def test_a_run_starts_from_the_weights_of_another(small, tmp_path, caplog):
    train(small("trainer.max_epochs=1"), tmp_path / "first")
    tiny = ["model.lr=1e-30", "trainer.max_epochs=1", f"init.from_run={tmp_path / 'first'}"]
    train(small(*tiny), tmp_path / "second")
    assert "10 of 10 tensors are those of" in caplog.text
    assert "XavierInit: weights of 0 layers" in caplog.text
    first, second = (Run(tmp_path / name).classifier.network.state_dict() for name in ("first", "second"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_changed_last_layer_is_logged_and_initialised(small, tmp_path, caplog):
    first = tmp_path / "first"
    train(small("trainer.max_epochs=1"), first)
    weights = safetensors.torch.load_file(first / "weights.safetensors")
    weights["11.weight"], weights["11.bias"] = torch.zeros(7, 84), torch.zeros(7)
    safetensors.torch.save_file(weights, first / "weights.safetensors")
    train(small("trainer.max_epochs=1", f"init.from_run={first}"), tmp_path / "second")
    assert "8 of 10 tensors are those of" in caplog.text
    assert "11.weight is (7, 84) there and (10, 84) here: new" in caplog.text
    assert "XavierInit: weights of 1 layers" in caplog.text


def test_a_source_without_weights_is_refused(small, tmp_path):
    with pytest.raises(ConfigurationError, match=r"init\.from_run=nowhere: There is no run nowhere\. RUN is a folder"):
        train(small("init.from_run=nowhere"), tmp_path / "run")
    train(small("trainer.max_epochs=1"), tmp_path / "lenet")
    other = small("model=vgg", *SMALL_VGG, f"init.from_run={tmp_path / 'lenet'}")
    with pytest.raises(NothingInitializedError, match=r"None of the weights in .* fits this network"):
        train(other, tmp_path / "vgg")


# Processes that are killed

QUICK = ("data=fashion_mnist_sample", "callbacks=none", "logger=tensorboard", "run_name=run", KEPT)


def started(tmp_path, *arguments):
    return commands.start(tmp_path, "train.py", *QUICK, *arguments)


def test_a_run_resumes_exactly_after_its_process_is_killed(tmp_path):
    arguments = ("trainer=cpu", "trainer.max_epochs=12", "checkpoint.every_seconds=0.01")
    path = tmp_path / "outputs" / "runs" / "run"
    chance = random.Random(0)
    for epoch in (1, 4):
        process = started(tmp_path, *arguments)
        wait_until(lambda epoch=epoch: Run(path).status.get("epoch", 0) >= epoch)
        time.sleep(chance.random() / 10)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert Run(path).status["state"] == "running"  # nobody could write anything else
    finished = commands.run(tmp_path, "resume.py", "run")
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"going on after epoch \d+, at step \d+", finished.stdout)
    train(Run(path).config, tmp_path / "whole")
    assert everything(path) == everything(tmp_path / "whole")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves_with_its_code(tmp_path, sent, code):
    process = started(tmp_path, "trainer=cpu", "trainer.max_epochs=100000")
    run = Run(tmp_path / "outputs" / "runs" / "run")
    wait_until(lambda: run.status.get("epoch", 0) >= 2)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert re.search(r"To go on: python .*scripts/resume\.py outputs/runs/run", out)
    assert "Traceback" not in err
    assert run.status["state"] == "interrupted"


def train_with(action, step):
    """In a process of its own: do something after a step of the stored configuration."""
    train(Run(Path("stored")).config, Path("run"), [At(step, action)])


def stored(config, tmp_path):
    (tmp_path / "stored").mkdir()
    Run(tmp_path / "stored").save_config(config)


def interrupt_twice():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    print("still here", flush=True)


def test_a_second_signal_ends_the_process_at_once(small, tmp_path):
    stored(small(), tmp_path)
    process = commands.Process(tmp_path, train_with, interrupt_twice, 2)
    out, _ = process.communicate()
    assert process.returncode == 130
    assert "still here" not in out
    assert not (tmp_path / "run" / "checkpoints").exists()


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_half_a_checkpoint():
    os.fsync = die  # the first of a checkpoint


def die_between_the_two_names():
    replace = Path.replace
    Path.replace = lambda path, to: die() if path.name == ".last.ckpt.incoming" else replace(path, to)


@pytest.mark.parametrize("death", [die_at_half_a_checkpoint, die_between_the_two_names])
def test_a_run_resumes_exactly_after_its_process_is_killed_while_it_writes_a_checkpoint(small, tmp_path, death):
    config = small("logger=tensorboard", KEPT, EACH_STEP, "trainer.limit_train_batches=null")
    stored(config, tmp_path)
    process = commands.Process(tmp_path, train_with, death, 6)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    checkpoints = tmp_path / "run" / "checkpoints"
    assert (checkpoints / ".last.ckpt.incoming").exists()
    assert (checkpoints / "last.ckpt").exists() == (death is die_at_half_a_checkpoint)
    train(config, tmp_path / "run")
    train(config, tmp_path / "whole")
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_ranks_save_together_and_resume_exactly_after_a_signal_and_after_a_killed_rank(tmp_path):
    """Rank 0 receives SIGTERM, later rank 1 is killed; the resumed training equals an uninterrupted one."""
    arguments = ("trainer=ddp", "trainer.devices=2", "trainer.max_epochs=25", "trainer.accelerator=cpu")
    runs = tmp_path / "outputs" / "runs"
    whole = started(tmp_path, *arguments, "run_name=whole")
    _, err = whole.communicate()
    assert whole.returncode == 0, err

    process = started(tmp_path, *arguments)
    wait_until(lambda: Run(runs / "run").status.get("epoch", 0) >= 2)
    process.send_signal(signal.SIGTERM)  # rank 0 alone
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert Run(runs / "run").status["state"] == "interrupted"
    epoch = Run(runs / "run").status["epoch"]

    process = commands.start(tmp_path, "resume.py", "run")
    wait_until(lambda: Run(runs / "run").status.get("epoch", 0) >= epoch + 2)
    (rank_1,) = [pid for pid in children(process.pid) if b"resume.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(rank_1, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0

    finished = commands.run(tmp_path, "resume.py", "run")
    assert finished.returncode == 0, finished.stderr
    assert everything(runs / "run") == everything(runs / "whole")


def test_the_process_that_holds_a_run_is_named_and_left_alone(tmp_path):
    process = started(tmp_path, "trainer=cpu", "trainer.max_epochs=100000")
    run = Run(tmp_path / "outputs" / "runs" / "run")
    wait_until(lambda: run.status.get("epoch", 0) >= 1)
    second = commands.run(tmp_path, "resume.py", "latest")
    assert second.returncode == 1
    assert re.search(rf"run is in use by process {process.pid} on \S+ since 20\S+: wait for it", second.stderr)
    assert "Traceback" not in second.stderr
    assert process.returncode is None
    process.kill()
    process.communicate()


# Files from somebody else run no code


def test_a_checkpoint_of_another_program_is_refused(small, tmp_path):
    path = interrupted_run(small(), tmp_path / "run")
    torch.save(read_checkpoint(path)["state_dict"], path)
    with pytest.raises(CheckpointError, match=r"last\.ckpt was written by another version of this project .*rm"):
        train(small(), tmp_path / "run")


class Planted:
    """Runs code when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_planted_checkpoint_runs_nothing(small, tmp_path):
    path = interrupted_run(small(), tmp_path / "run")
    rewrite(path, lambda checkpoint: checkpoint.update(planted=Planted(tmp_path / "pwned")))
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values, so it was not loaded"):
        train(small(), tmp_path / "run")
    assert not (tmp_path / "pwned").exists()


def test_a_planted_checkpoint_writes_nowhere_else(small, tmp_path):
    path = interrupted_run(small(), tmp_path / "run")

    def plant(checkpoint):
        checkpoint["callbacks"]["Checkpoints"]["last_path"] = str(tmp_path / "pwned")

    rewrite(path, plant)
    train(small(), tmp_path / "run")
    assert not (tmp_path / "pwned").exists()


def test_planted_weights_run_nothing(small, tmp_path):
    train(small(), tmp_path / "run")
    torch.save(Planted(tmp_path / "pwned"), tmp_path / "run" / "weights.safetensors")
    with pytest.raises(RunFolderError, match=r"weights\.safetensors does not hold the weights of"):
        _ = Run(tmp_path / "run").classifier
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "planted",
    [
        {"model": {"_target_": "os.mkdir"}},
        {"optimizer": {"_target_": "torch.hub.load"}},
        {"callbacks": {"mine": {"_target_": "os.mkdir", "path": "pwned"}}},
        {"logger": {"tensorboard": {"nested": [{"deep": [{"_target_": "os.mkdir"}]}]}}},
        {"model": {"name": "${oc.env:HOME}"}},
        {"optimizer": {"_args_": ["${oc.create:{_target_: os.mkdir, path: pwned}}"]}},
        {"optimizer": {"params": [["${oc.create:{_target_: os.mkdir, path: pwned}}"]]}},
        {"model": {"_target_": ["os.mkdir"]}},
        {"model": {"_target_": {"name": "os.mkdir"}}},
    ],
)
def test_a_planted_configuration_calls_nothing(trained, tmp_path, planted, monkeypatch):
    path = shutil.copytree(trained, tmp_path / "run")
    stored = OmegaConf.load(path / "config.yaml")
    for section, values in planted.items():
        stored[section].update(values)
    (path / "config.yaml").write_text(OmegaConf.to_yaml(stored))
    (path / "result.json").unlink()
    monkeypatch.chdir(tmp_path)
    for use in (
        lambda: Run(path).config,
        lambda: Run(path).classifier,
        lambda: Run(path).datamodule,
        lambda: extend(Run(path), []),
    ):
        with pytest.raises(ConfigurationError, match=r"nothing was called|is not resolved"):
            use()
    assert not (tmp_path / "pwned").exists()


def test_a_class_that_is_trusted_by_name_is_called(small, tmp_path):
    path = tmp_path / "run"
    Run(path).path.mkdir()
    config = small()
    config.callbacks = {"mine": {"_target_": "lightning.pytorch.callbacks.Timer"}}
    Run(path).save_config(config)
    with pytest.raises(ConfigurationError, match=r"--trust lightning\.pytorch\.callbacks\.Timer"):
        _ = Run(path).config
    assert Run(path, ["lightning.pytorch.callbacks.Timer"]).config.callbacks.mine._target_.endswith("Timer")


@pytest.mark.slow
def test_the_soak_finds_no_difference(run_script, tmp_path):
    finished = run_script(
        "soak.py", "--kills", "3", "data=fashion_mnist_sample", "trainer=cpu", "trainer.max_epochs=300"
    )
    assert finished.returncode == 0, finished.stderr
    last = finished.stdout.splitlines()[-1]
    assert last.startswith("3 kills, 3 resumes, ")
    assert "final weights identical, metrics identical" in last
