import pytest
import yaml
from hydra import compose as hydra_compose
from omegaconf import OmegaConf
from support.repository import CONF, hydra_context

from convnets.configuration.composition import GROUPS
from convnets.configuration.content import (
    LIMITS,
    NO_OPTION,
    NOT_CONTENT,
    WATCHERS,
    content,
    content_hash,
    differences,
    flatten,
    is_part_of,
)
from convnets.training.command import compose as compose_and_name
from convnets.training.command import prepare

CHOSEN = (*GROUPS[:-1], "trainer")
CHOICES = [f"{group}={path.stem}" for group in CHOSEN for path in sorted((CONF / group).glob("*.yaml"))]
# Of these, another model has the same keys.
ALIKE = {
    f"model={name}" for name in ("vgg11", "vgg13", "vgg16", "vgg19", "resnet34", "resnet101", "resnet152", "bn_lenet")
}


def as_plain(config):
    return OmegaConf.to_container(config)


def replaced(config, key, value):
    """The configuration with another value of a dotted key."""
    first, _, rest = key.partition(".")
    return {**config, first: replaced(config.get(first) or {}, rest, value) if rest else value}


def without(config, key):
    first, _, rest = key.partition(".")
    return {name: without(child, rest) if name == first and rest else child
            for name, child in config.items() if name != first or rest}  # fmt: skip


def equals(key, value):
    """Other values that mean the same."""
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [] if key in LIMITS else [float(value)]
    if isinstance(value, float):
        return [int(value)] if value.is_integer() else [float(f"{value:e}")]
    if isinstance(value, list):
        return [[other for item in value for other in (equals("", item) or [item])]]
    return []


@pytest.fixture(scope="module", params=[choice for choice in CHOICES if choice not in ALIKE])
def chosen(request):
    """A choice, and a configuration with it in which held-out images and devices matter, too."""
    asked = ["data.dir=photos"] if request.param == "data=image_folder" else []
    config, _ = compose_and_name(["data.holdout=100", "trainer.devices=2", *asked, request.param])
    return request.param, as_plain(config)


def test_the_same_value_written_otherwise_is_the_same_content_for_every_key(chosen):
    _, config = chosen
    expected, tried = content_hash(config), 0
    for key, value in flatten(config).items():
        for other in equals(key, value):
            assert content_hash(replaced(config, key, other)) == expected, (key, other)
            tried += 1
        if value is None:
            assert content_hash(without(config, key)) == expected, key
            for number in (1, 3):  # what null would be otherwise
                as_whole, as_share = (content_hash(replaced(config, key, kind(number))) for kind in (int, float))
                assert (as_whole == as_share) or key in LIMITS, key
    assert tried > 10


def test_any_other_value_is_other_content_for_every_key(chosen):
    """But for keys that only name, that follow another, or decide nothing where they stand."""
    choice, config = chosen
    follow = ("model.lr", "optimizer.lr", "schedule.max_lr", "computation", "data.dir")
    for key, value in flatten(config).items():
        if is_part_of(key, (*NOT_CONTENT, *follow, "callbacks")) or key.endswith("._partial_"):
            continue
        if choice == "trainer=cpu" and key in ("trainer.sync_batchnorm", "trainer.matmul_precision"):
            continue
        other = not value if isinstance(value, bool) else value + 1 if isinstance(value, (int, float)) else "other"
        assert content_hash(replaced(config, key, other)) != content_hash(config), key
        differing = differences(replaced(config, key, other), config)
        assert differing[key] == (other, value)
        assert len(differing) == 1 or key.endswith("._target_") or choice == f"data={value}"


def test_the_defaults_written_out_are_the_defaults(compose):
    for choice in ("model=lenet", "model=vgg", "model=resnext18", "optimizer=adamw", "schedule=onecycle"):
        keys = flatten(as_plain(compose(choice)))
        written = [f"{key}={value}" for key, value in keys.items() if isinstance(value, (bool, int, float))]
        written = [w for w in written if not w.startswith(("computation", "callbacks.", "logger.")) and "._" not in w]
        with hydra_context():
            names = [
                prepare(hydra_compose("train", [choice, *words], return_hydra_config=True))[1]
                for words in ([], written)
            ]
        assert names[0] == names[1]


SAME = [
    (["trainer.gradient_clip_val=1"], ["trainer.gradient_clip_val=1.0"]),
    (["trainer.gradient_clip_val=1"], ["trainer.gradient_clip_val=1e0"]),
    (["data.split_seed=7"], []),
    (["trainer.limit_train_batches=1.0"], []),
    (["trainer.limit_test_batches=3"], []),
    (["trainer.strategy=ddp"], []),
    (["trainer.sync_batchnorm=true"], []),
    (["trainer.devices=2"], ["trainer.devices=2", "trainer.strategy=ddp"]),
    (["trainer=cpu", "trainer.matmul_precision=highest"], ["trainer=cpu"]),
    (["optimizer.lr=0.3"], ["model.lr=0.3"]),
    (["schedule=onecycle", "optimizer.lr=0.7"], ["schedule=onecycle"]),
    (["optimizer.fused=false"], []),
    (["model=resnext18", "model.num_groups=32"], ["model=resnext18"]),
    (["model=regnet", "model.group_width=16"], ["model=regnet"]),
    (["model=resnet18", "model.bottleneck_ratio=none"], ["model=resnet18"]),
    (["optimizer.momentum=0.9"], ["optimizer=momentum"]),
    (["callbacks=none"], []),
    (["callbacks.dashboard.every=1"], []),
]
OTHER = [
    (["data.holdout=100", "data.split_seed=7"], ["data.holdout=100"]),
    (["data.holdout=100", "trainer.limit_test_batches=3"], ["data.holdout=100"]),
    (["trainer.limit_train_batches=1"], ["trainer.limit_train_batches=1.0"]),
    (["trainer.devices=2", "trainer.sync_batchnorm=false"], ["trainer.devices=2"]),
    (["optimizer.lr=0.3"], []),
    (["schedule=onecycle", "schedule.max_lr=0.7"], ["schedule=onecycle"]),
]


HASHES = {  # of November 2026, before networks had these options: folders of runs are named so
    "lenet": "f8441c20",
    "vgg": "0017d446",
    "vgg11": "c0384194",
    "resnet18": "cbdfa59b",
    "resnext18": "3012d666",
}


@pytest.mark.parametrize("model", HASHES)
def test_an_option_that_older_runs_lack_has_the_value_that_they_meant(model, compose):
    config = as_plain(compose(f"model={model}"))
    assert content_hash(config) == HASHES[model]
    for option in NO_OPTION[config["model"]["_target_"]]:
        older = without(config, f"model.{option}")
        assert content_hash(older) == HASHES[model]
        assert differences(replaced(config, f"model.{option}", "other"), older).keys() == {f"model.{option}"}


@pytest.mark.parametrize("scheduler", ["StepLR", "OneCycleLR", "ReduceLROnPlateau"])
def test_what_a_schedule_does_by_default_written_out_is_the_same(scheduler):
    plain = {"_target_": f"torch.optim.lr_scheduler.{scheduler}", "factor": 0.5}
    usual = {"interval": "step" if scheduler == "OneCycleLR" else "epoch", "monitor": "val/loss"}
    other = "epoch" if scheduler == "OneCycleLR" else "step"
    assert content({"schedule": plain}) == content({"schedule": {**plain, **usual}})
    assert content({"schedule": plain}) != content({"schedule": {**plain, "interval": other}})
    assert content({"schedule": plain}) != content({"schedule": {**plain, "monitor": "val/accuracy"}})


@pytest.mark.parametrize(("ours", "theirs"), SAME)
def test_keys_without_effect_do_not_change_the_hash(ours, theirs):
    assert compose_and_name(ours)[1].rpartition("-")[2] == compose_and_name(theirs)[1].rpartition("-")[2]


def test_a_finished_run_is_found_by_another_spelling_of_its_overrides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = compose_and_name(["optimizer=momentum"])[1]
    (tmp_path / "outputs" / "runs" / name).mkdir(parents=True)
    with hydra_context():
        for words in (["optimizer=momentum"], ["optimizer.momentum=0.9"], ["optimizer=momentum", "data.split_seed=4"]):
            root = hydra_compose("train", words, return_hydra_config=True)
            assert root.hydra.run.dir == f"outputs/runs/{name}"
        other = hydra_compose("train", ["optimizer.momentum=0.8"], return_hydra_config=True)
        assert not other.hydra.run.dir.startswith(f"outputs/runs/{name}")


@pytest.mark.parametrize(("ours", "theirs"), OTHER)
def test_keys_with_effect_change_the_hash(ours, theirs):
    assert compose_and_name(ours)[1] != compose_and_name(theirs)[1]


LIGHTNING = "lightning.pytorch.callbacks"
USERS_CALLBACKS = {
    "early_stopping": f"stop:\n  _target_: {LIGHTNING}.EarlyStopping\n  monitor: val/loss\n  patience: 2\n",
    "ema": f"average:\n  _target_: {LIGHTNING}.EMAWeightAveraging\n  decay: 0.9\n",
    "swa": f"average:\n  _target_: {LIGHTNING}.StochasticWeightAveraging\n  swa_lrs: 0.05\n",
    "accumulation": f"grow:\n  _target_: {LIGHTNING}.GradientAccumulationScheduler\n  scheduling: {{0: 1, 1: 2}}\n",
}


@pytest.mark.parametrize("name", USERS_CALLBACKS)
def test_a_callback_that_is_not_known_only_to_watch_is_content(tmp_path, name):
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "mine.yaml").write_text(USERS_CALLBACKS[name])
    found = f"hydra.searchpath=[file://{tmp_path}]"
    config, with_it = compose_and_name([found, "callbacks=mine"])
    plain, without_it = compose_and_name([found])
    assert with_it != without_it
    assert with_it.startswith("lenet-mine-")
    item = yaml.safe_load(USERS_CALLBACKS[name])
    expected = {f"callbacks.{key}": value for key, value in flatten(item).items()}
    assert differences(config, plain) == {key: (value, None) for key, value in expected.items()}


def test_every_shipped_callback_is_known_to_watch():
    shipped = yaml.safe_load((CONF / "callbacks" / "default.yaml").read_text())
    assert {item["_target_"] for item in shipped.values()} == WATCHERS


def test_differences_show_both_values_even_defaults(compose):
    relu, sigmoid = compose("model.activation=relu"), compose()
    assert differences(relu, sigmoid) == {"model.activation": ("relu", "sigmoid")}
    older = as_plain(sigmoid)
    del older["model"]["activation"]  # a run from before there was the key
    assert differences(relu, older) == {"model.activation": ("relu", "sigmoid")}
    assert content(older) == content(sigmoid)


def test_the_folder_of_images_is_content_unless_they_are_verified(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def of(target, folder):
        return content({"data": {"_target_": target, "dir": folder}})

    assert of("convnets.data.FashionMNISTDataModule", "/a") == of("convnets.data.FashionMNISTDataModule", "/b")
    assert of("mine.Photos", "/a") != of("mine.Photos", "/b")
    assert of("mine.Photos", str(tmp_path / "a")) == of("mine.Photos", "a") == of("mine.Photos", f"{tmp_path}/a/")


@pytest.mark.parametrize("spelling", ["{}", "{}/", "{}/../first"])
def test_a_start_from_weights_is_known_by_the_weights_wherever_they_lie(tmp_path, spelling):
    for name, weights in (("first", b"weights"), ("copy", b"weights"), ("other", b"others")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").write_bytes(weights)

    def named(path):
        return compose_and_name([f"init.from_run={path}"])[1]

    assert named(tmp_path / "first") == named(spelling.format(tmp_path / "first")) == named(tmp_path / "copy")
    assert named(tmp_path / "first") != named(tmp_path / "other")
