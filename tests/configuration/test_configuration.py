import functools
import itertools
import json
import re

import hydra
import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from support.repository import CONF, hydra_context
from yaml import YAMLError

from convnets import networks
from convnets.configuration.composition import GROUPS, checked, resolve
from convnets.configuration.content import content_hash, differences, flatten
from convnets.configuration.errors import explain
from convnets.configuration.rules import ConfigurationError
from convnets.training.building import NOT_NETWORKS, build_classifier, build_datamodule, build_trainer
from convnets.training.command import compose as compose_and_name
from convnets.training.command import expected_band, prepare


def root(*overrides):
    """The configuration as Hydra holds it inside a job, to be used inside its context."""
    return hydra.compose("train", list(overrides), return_hydra_config=True)


@functools.cache
def name(*overrides):
    with hydra_context():
        return prepare(root(*overrides))[1]


@functools.cache
def band(*overrides):
    with hydra_context():
        composed = root(*overrides)
        return expected_band(resolve(composed), composed.hydra)


CHOICES = {
    group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in (*GROUPS, "trainer", "logger")
}
SINGLE = [f"{group}={choice}" for group, choices in CHOICES.items() for choice in choices]
NEED_MORE = ("trainer=gpu", "model=timm", "data=image_folder")  # a GPU, a package, pictures


@pytest.mark.parametrize("override", [item for item in SINGLE if item not in NEED_MORE])
def test_every_shipped_choice_composes_and_its_arguments_bind(override, tmp_path):
    config, named = compose_and_name(["trainer=cpu", override])
    assert named.startswith(config.model.name)
    datamodule = build_datamodule(config)
    trainer = build_trainer(config, tmp_path)
    with torch.device("meta"):
        classifier = build_classifier(config, datamodule)
    optimizer = classifier.optimizer(classifier.parameters())
    assert optimizer.defaults["lr"] == config.model.lr
    if config.schedule._target_ is None:
        assert classifier.schedule is None
    else:
        built = classifier.schedule.build(optimizer, 100)
        assert type(built).__name__ == config.schedule._target_.rpartition(".")[2]
    chosen = [config.init._target_, *(item._target_ for item in config.callbacks.values())]
    names = {target.rpartition(".")[2] for target in chosen if target is not None}
    assert {type(each).__name__ for each in trainer.callbacks} >= names | {"Checkpoints", "FiniteLoss", "History"}


def every(group):
    return [f"{group}={choice}" for choice in CHOICES[group]]


FEW = [*zip(itertools.cycle(["model=vgg", "model=resnet18"]), itertools.cycle(every("optimizer")), every("schedule"))]
ALL = itertools.product(["model=lenet", "model=vgg", "model=resnet18"], every("optimizer"), every("schedule"))


@pytest.mark.parametrize("overrides", [*FEW, *(pytest.param(words, marks=pytest.mark.slow) for words in ALL)])
def test_choices_combine(overrides):
    assert name(*overrides).startswith(overrides[0].split("=")[1])


RECIPES = sorted(path.stem for path in CONF.glob("experiment/book/*.yaml"))
EXERCISES = sorted(str(path.relative_to(CONF).with_suffix("")) for path in CONF.glob("*/exercise/*.yaml"))
assert RECIPES  # of none, pytest would test nothing
assert EXERCISES


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_compose_and_know_their_band(recipe):
    published = yaml.safe_load((CONF / "experiment" / "book" / f"{recipe}.yaml").read_text()).get("expected")
    assert band(f"experiment=book/{recipe}", "seed=3") == published
    assert published is None or published[0] < published[1]


@pytest.mark.parametrize("exercise", EXERCISES)
def test_exercises_compose_and_their_networks_can_be_built(exercise):
    """Of a sweep, as many jobs as its longest list has values: each value is in one of them."""
    content = yaml.safe_load((CONF / f"{exercise}.yaml").read_text())
    swept = content.get("hydra", {}).get("sweeper", {}).get("params", {})
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in swept.items()])
    choices = [[f"{each.key_or_group}={value}" for value in each.sweep_string_iterator()] for each in parsed]
    jobs = [[values[i % len(values)] for values in choices] for i in range(max(map(len, choices), default=1))]
    with hydra_context():
        configs = [checked(root(exercise.replace("/", "=", 1), *job))[0] for job in jobs]
    for config in configs:
        options = {key: value for key, value in config["model"].items() if key not in NOT_NETWORKS}
        build = getattr(networks, options.pop("_target_").rpartition(".")[2])
        size = config["data"]["resize"]
        with torch.device("meta"):
            assert build(image_size=size, **options)(torch.empty(2, 1, size, size)).shape == (2, 10)
        assert config["data"]["holdout"] == (5000 if swept else 0)


@pytest.mark.parametrize("exercise", EXERCISES)
def test_exercises_say_how_long_they_take_and_their_command(exercise):
    comment = [line for line in (CONF / f"{exercise}.yaml").read_text().splitlines()[1:] if line.startswith("# ")]
    assert "on one core" in " ".join(comment)
    assert comment[-1].split("   (")[0] == f"#   python scripts/train.py {exercise.replace('/', '=', 1)}"


@pytest.mark.parametrize(
    ("overrides", "model", "resize", "lr"),
    [
        ((), "lenet", 28, 0.1),
        (("model=vgg",), "vgg", 224, 0.01),
        (("model=resnet18",), "resnet18", 96, 0.01),
        (("model=vgg", "data.resize=64"), "vgg", 64, 0.01),
        (("model=vgg", "optimizer=adamw"), "vgg", 224, 0.001),
        (("model=vgg", "optimizer=adamw", "model.lr=0.02"), "vgg", 224, 0.02),
    ],
)
def test_defaults_follow_the_model_and_the_command_line_wins(compose, overrides, model, resize, lr):
    config = compose(*overrides)
    assert (config.model.name, config.data.resize, config.optimizer.lr) == (model, resize, lr)
    assert config.data.batch_size == 128
    assert config.trainer.max_epochs == 10


class TestFolderNames:
    def test_say_what_differs(self):
        assert name().startswith("lenet-")
        assert name("model=vgg", "data.resize=96", "seed=1").startswith("vgg-resize96-seed1-")
        assert name("optimizer=adamw", "model.lr=0.01", "trainer=smoke").startswith("lenet-adamw-smoke-lr0.01-")

    def test_come_from_the_content_not_from_how_it_was_said(self):
        assert name("model=vgg") == name("model=vgg", "data.resize=224") == name("experiment=book/vgg")
        assert name("model.lr=1") == name("model.lr=1.0")
        assert name("data.augment=[]") == name() == name("data.mix=none", "data.normalize=none")
        assert name("data.augment=[erase]") == name("data.augment=erase")

    @pytest.mark.parametrize(
        "override",
        ["callbacks=none", "logger=none", "data.dir=elsewhere", "checkpoint.keep=true", "model.image_size=28"],
    )
    def test_leave_out_what_only_watches_or_names(self, override):
        assert name(override) == name()

    @pytest.mark.parametrize(
        "override",
        [
            "seed=1",
            "model.lr=0.2",
            "data.resize=32",
            "data.batch_size=64",
            "data.holdout=1",
            "data.augment=shift_flip",
            "data.augment=[crop_flip,erase]",
            "data.augment=[erase,crop_flip]",
            "data.mix=mixup",
            "data.normalize=standard",
            "optimizer=momentum",
            "schedule=cosine",
            "init=default",
            "trainer.max_epochs=2",
            "trainer.precision=bf16-mixed",
            "trainer.devices=2",
            "trainer.gradient_clip_val=1",
            "trainer.accumulate_grad_batches=2",
            "trainer.deterministic=true",
            "trainer.limit_train_batches=3",
            "model.padding_mode=circular",
            "data=fashion_mnist_sample",
            "trainer=cpu",
        ],
    )
    def test_hold_what_decides_the_result(self, override):
        assert name(override) != name()

    def test_are_short_and_plain(self):
        long = name(
            "model=vgg", "model.blocks=[[1,4],[1,4]]", "model.lr=1e-7", "trainer=smoke", "init=kaiming", "seed=7"
        )
        assert len(long) <= 100
        assert set(long) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")

    def test_can_be_chosen(self):
        assert name("run_name=mine") == "mine"


def test_the_published_band_is_only_for_the_published_recipe():
    assert band() == band("seed=5") == band("experiment=book/lenet", "callbacks=none") == [0.718, 0.737]
    assert band("model=vgg") == [0.888, 0.896]
    for other in ("trainer.max_epochs=9", "init=default", "trainer.precision=bf16-mixed", "model=vgg11"):
        assert band(other) is None
    assert band("experiment=book/lenet", "data.resize=32") is None


@pytest.mark.parametrize("trainer", ["cpu", "gpu", "ddp"])
def test_the_published_band_does_not_depend_on_the_device(trainer):
    assert band(f"trainer={trainer}") == [0.718, 0.737]


def test_batch_statistics_are_shared_where_devices_are(compose):
    assert compose("trainer.devices=2").trainer.sync_batchnorm is True
    assert compose("trainer=ddp").trainer.sync_batchnorm is True
    assert compose().trainer.sync_batchnorm is False


def test_a_key_added_later_with_null_changes_no_hash(compose):
    config = resolve(compose())
    assert content_hash(config) == content_hash({**config, "added": None})
    assert content_hash(config) != content_hash({**config, "added": 1})


def test_differences_name_both_values(compose):
    a, b = resolve(compose()), resolve(compose("seed=1", "run_name=x"))
    assert differences(a, b) == {"seed": (0, 1), "data.seed": (0, 1)}


def test_flatten_keeps_lists_and_empty_groups():
    assert flatten({"a": {"b": [1, 2], "c": {}}, "d": None}) == {"a.b": [1, 2], "a.c": {}, "d": None}
    assert json.dumps(flatten({"a": {"b": 1}})) == '{"a.b": 1}'


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.resize=abc", "data.resize must be a whole number from 1 to 2048, got 'abc'."),
        ("data.resize=0", "data.resize must be a whole number from 1 to 2048, got 0."),
        ("data.resize=1.5", "got 1.5"),
        ("data.resize=true", "got True"),
        ("data.resize=null", "got None"),
        ("data.resize=[1,2]", r"got \[1, 2\]"),
        ("model.lr=-1", "model.lr must be a number above 0, got -1."),
        ("model.lr=nan", "model.lr must be a number above 0, got nan."),
        ("model.padding_mode=reflex", "one of zeros, reflect, replicate, circular, got 'reflex'"),
        ("data.augment=flip", r"data.augment must be none, one of shift_flip, .*, or a list of these, .* got 'flip'\."),
        ("data.augment=[erase,erase]", r"each once, such as \[crop_flip,erase\], got \['erase', 'erase'\]"),
        ("trainer.limit_train_batches=2.0", "a share of them above 0.0 and up to 1.0, or null, got 2.0"),
        ("trainer.devices=0", "trainer.devices must be auto, or a whole number of at least 1, got 0."),
        ("trainer.strategy=dpp", "trainer.strategy must be one of auto, ddp, "),
        ("trainer.precision=bf16-true", "one of 32-true, bf16-mixed, 16-mixed, got 'bf16-true'"),
        ("run_name=1e5", r"run_name must be 1 to 100 letters.*in two pairs of quotes, '\"1\.5\"'.*got 100000\.0"),
        ("run_name=true", "run_name must be 1 to 100 letters"),
        ("channels_last=1", "channels_last must be true or false, got 1."),
        ("compile=fast", "compile must be true, false, or a mode of torch.compile: reduce-overhead, max-autotune, "),
        ("steps_per_execution=0", "steps_per_execution must be a whole number of at least 1, got 0."),
        ("run_name=a/b", "run_name must be 1 to 100 letters"),
        ("run_name=..", "run_name must be 1 to 100 letters"),
        ("+foo=1", "There is no key foo"),
        ("+data.resiz=1", "There is no key data.resiz. Did you mean data.resize?"),
        ("~data.resize", "data.resize has no value: do not remove it"),
        ("data.dir=???", "data.dir has no value: set data.dir=VALUE."),
        ("data.resize=${nope}", "data.resize: Interpolation key 'nope' not found"),
        ("optimizer._target_=5", "optimizer._target_ must be a text such as 'torch.optim.SGD', got 5."),
        ("callbacks.time_estimate=5", "callbacks.time_estimate holds several keys, got 5"),
        ("callbacks.time_estimate.long_seconds=soon", "must be a whole number such as 300, got 'soon'"),
    ],
)
def test_a_wrong_value_is_named_with_the_rule(override, said):
    with pytest.raises(ValueError, match=said):
        name(override)


@pytest.mark.parametrize("override", ["callbacks.progress=null", "callbacks.progress=false", "logger.tensorboard=null"])
def test_watchers_can_be_switched_off_one_by_one(override):
    assert name(override) == name()


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("model/mine.yaml", "lr: 1\nimage_size: 28\n_target_: a.b\n", r"conf/model/mine\.yaml lacks name\."),
        ("model/mine.yaml", "name 5\nlr: 1", r"mine\.yaml, line 2: mapping values are not allowed here\."),
        ("experiment/mine.yaml", "model:\n  lr: 0.2\n", "must begin with '# @package _global_' and set something"),
        (
            "experiment/mine.yaml",
            "# @package _global_\ndefaults:\n  - override /modle: vgg\n",
            "In 'experiment/mine': There is no key modle. Did you mean model?",
        ),
    ],
)
def test_a_mistake_in_a_users_file_is_named(tmp_path, path, text, said):
    file = tmp_path / path
    file.parent.mkdir()
    file.write_text(text)
    overrides = [f"{file.parent.name}=mine", f"hydra.searchpath=[file://{tmp_path}]"]
    with (
        hydra_context(),
        pytest.raises((ConfigurationError, HydraException, YAMLError, OmegaConfBaseException)) as error,
    ):
        prepare(root(*overrides))[1]
    assert re.search(said, explain(error.value, overrides) or "")


def test_a_typo_inside_an_experiment_file_is_found(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    experiment = tmp_path / "experiment" / "mine.yaml"
    with hydra_context():
        path = ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"]
        experiment.write_text("# @package _global_\nmodel:\n  lr: 0.2\n")
        assert prepare(root(*path))[1].startswith("lenet-lr0.2-")
        experiment.write_text("# @package _global_\nmodel:\n  learning: 0.2\n")
        with pytest.raises(ValueError, match=r"There is no key model\.learning\."):
            prepare(root(*path))[1]
        experiment.write_text("# @package _global_\ndata:\n  batchsize: 3\n")
        with pytest.raises(ValueError, match=r"There is no key data.batchsize. Did you mean data.batch_size?"):
            prepare(root(*path))[1]
