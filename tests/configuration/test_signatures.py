import inspect
import subprocess
import sys

import hydra
import pytest
from hydra.utils import get_object
from support.repository import hydra_context

from convnets.configuration.composition import adding_keys
from convnets.configuration.signatures import arguments_of
from convnets.configuration.targets import shipped_targets
from convnets.training.command import compose as compose_and_name
from convnets.training.command import prepare

FURTHER = (
    *("torch.optim.Adam", "torch.optim.RMSprop", "torch.optim.lr_scheduler.StepLR", "torch.nn.MultiMarginLoss"),
    *("lightning.pytorch.callbacks.EarlyStopping", "lightning.pytorch.loggers.CSVLogger"),
)


@pytest.mark.parametrize("target", sorted({*shipped_targets(), *FURTHER}))
def test_the_source_names_the_arguments_that_the_class_takes(target):
    parameters = inspect.signature(get_object(target)).parameters.values()
    takes_more = any(each.kind is each.VAR_KEYWORD for each in parameters)
    named = {each.name: each.default for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
    found = {key: value for key, value in arguments_of(target).items() if key != "self"}
    assert found.keys() >= named.keys() if takes_more else found.keys() == named.keys()
    for key, default in named.items():
        if isinstance(default, (bool, int, float, str)):
            assert found[key] == default, key


def test_what_cannot_be_found_has_no_arguments():
    assert arguments_of("nowhere.Nothing") == arguments_of("torch.optim.Nothing") == arguments_of("builtins.list") == {}


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["optimizer.nesterov=true"], "optimizer.nesterov", True),
        (["+optimizer.nesterov=true"], "optimizer.nesterov", True),
        (["optimizer=adamw", "optimizer.betas=[0.9,0.95]"], "optimizer.betas", [0.9, 0.95]),
        (["optimizer.dampening=0.5"], "optimizer.dampening", 0.5),
        (["schedule=onecycle", "schedule.pct_start=0.2"], "schedule.pct_start", 0.2),
        (["schedule=cosine", "schedule.eta_min=1e-3"], "schedule.eta_min", 1e-3),
        (["loss.ignore_index=3"], "loss.ignore_index", 3),
    ],
)
def test_an_argument_that_no_file_lists_can_be_set(words, key, value):
    config, named = compose_and_name(words)
    group, last = key.split(".")
    assert config[group][last] == value
    assert last in named


def test_an_argument_in_an_experiment_can_be_set(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\noptimizer:\n  nesterov: true\n")
    words = ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"]
    with hydra_context():
        assert prepare(hydra.compose("train", words, return_hydra_config=True))[1].startswith("lenet-nesterovTrue-")


@pytest.mark.parametrize("word", ["optimizer.nesterov=false", "optimizer.dampening=0", "loss.label_smoothing=0"])
def test_the_default_of_the_class_written_out_is_the_same_run(word):
    assert compose_and_name([word])[1] == compose_and_name([])[1]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("optimizer.nesterovv=true", r"There is no key optimizer.nesterovv. Did you mean optimizer.nesterov\?"),
        (
            "optimizer.betas=[0.9,0.95]",
            r"There is no key optimizer.betas. Keys of optimizer: lr, mom.*dampening",
        ),
        ("optimizer.nesterov=maybe", "optimizer.nesterov must be true or false, such as False, got 'maybe'."),
        ("optimizer.dampening=much", "optimizer.dampening must be a number such as 0.0, got 'much'."),
        ("optimizer.params=[1]", r"There is no key optimizer.params. Keys of optimizer"),
        ("model.in_channels=3", r"There is no key model.in_channels."),
        ("schedule.pct_start=0.2", r"There is no key schedule.pct_start."),
        ("loss.reduction=sum", "loss.reduction must be one of mean, got 'sum'."),
        ("model.freeze=all", "model.freeze must be one of backbone, or null, got 'all'."),
    ],
)
def test_a_key_that_the_class_does_not_take_is_refused(word, said):
    with pytest.raises(ValueError, match=said):
        compose_and_name([word])


def test_only_keys_that_no_file_of_the_choice_lists_are_added():
    words = ["optimizer.momentum=0.9", "optimizer.eps=1", "seed=1", "data.resize=5", "+loss.gamma=1", "-m"]
    assert adding_keys(words) == [words[0], f"++{words[1]}", *words[2:]]
    assert adding_keys(["optimizer=momentum", "optimizer.lr=1,2"])[1] == "optimizer.lr=1,2"
    assert adding_keys(["optimizer=adamw", "optimizer.momentum=1"])[1] == "++optimizer.momentum=1"
    assert adding_keys(["model=lenet", "model.num_groups=2"])[1] == "++model.num_groups=2"


def test_a_typo_is_answered_without_torch():
    program = (
        "import sys\nfrom convnets.training.command import compose\n"
        "try:\n    compose(['optimizer.nesterovv=true'])\nexcept ValueError as error:\n    print(error)\n"
        "print('torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Did you mean optimizer.nesterov?" in finished.stdout
    assert finished.stdout.endswith("False\n")


def test_the_names_of_runs_from_before_there_was_a_loss_are_the_same():
    assert compose_and_name([])[1] == "lenet-f8441c20"
    assert compose_and_name(["model=resnext18"])[1] == "resnext18-3012d666"
    assert compose_and_name(["model=vgg", "optimizer=adamw", "schedule=cosine"])[1] == "vgg-adamw-cosine-24f8f34d"
