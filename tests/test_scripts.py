import re
import subprocess
import sys
from collections import Counter

import pytest
from omegaconf import OmegaConf
from support import commands
from support.repository import CONF, ROOT

from convnets.runs.sources import record_code


def planned(run_script, *words):
    quick = ["data=fashion_mnist_sample", "trainer=smoke", "hydra.launcher.dry_run=true", "sweep_name=s"]
    finished = run_script("train.py", "-m", *quick, *words)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_jobs_that_train_the_same_thing_are_one(run_script):
    for same in (["data.split_seed=0,1"], ["optimizer=sgd,momentum", "optimizer.momentum=0.9"], ["model.lr=1,1.0"]):
        assert "outputs/sweeps/s: 1 job, 1 to do" in planned(run_script, *same)
    assert "outputs/sweeps/s: 2 jobs, 2 to do" in planned(run_script, "data.split_seed=0,1", "data.holdout=100")


def test_a_job_is_done_before_only_where_its_own_configuration_was(run_script, compose, tmp_path):
    run = tmp_path / "outputs" / "sweeps" / "s" / "x"
    (run.parent / "logs").mkdir(parents=True)
    config = compose("data=fashion_mnist_sample", "trainer=smoke", "run_name=x")
    OmegaConf.save(config, (run.mkdir() or run) / "config.yaml")
    record_code(run, config, goes_on=False)
    (run / "result.json").write_text("{}")
    (run.parent / "logs" / "x.return.json").write_text("0.1")
    assert "1 job, 0 to do" in planned(run_script, "run_name=x", "model.lr=0.1")
    assert "1 job, 1 to do" in planned(run_script, "run_name=x", "model.lr=0.2")


def test_help_shows_every_group_and_seven_examples(run_script):
    finished = run_script("train.py", "--help")
    assert finished.returncode == 0
    groups = [path for path in CONF.iterdir() if path.is_dir()]
    assert len(groups) == 14
    for group in groups:
        names = sorted(str(path.relative_to(group).with_suffix("")) for path in group.rglob("*.yaml"))
        long = [name for name in names if name.startswith(("exercise/", "speedrun/without/"))]
        folders = Counter(name.rpartition("/")[0] for name in long)
        folded = [f"{folder}/NAME ({number} of them)" for folder, number in folders.items()]
        choices = re.escape(", ".join([*(name for name in names if name not in long), *folded]))
        assert re.search(rf"^  {group.name}= +\w[\w' ]+ {choices}$", finished.stdout, re.MULTILINE), group
    assert len(re.findall(r"^  python .*scripts/train\.py", finished.stdout, re.MULTILINE)) == 7


def test_cfg_job_prints_the_composed_configuration(run_script):
    finished = run_script("train.py", "--cfg", "job", "model=vgg")
    assert "lr: 0.01" in finished.stdout
    assert "resize: ${model.image_size}" in finished.stdout


def test_tab_completion_completes(run_script):
    finished = run_script("train.py", "-sc", "query=bash", COMP_LINE="train.py model=v", COMP_POINT="16")
    assert set(finished.stdout.split()) >= {"model=vgg", "model=vgg11"}


def test_answers_that_need_no_torch_do_not_import_it():
    program = (
        f"import sys, runpy; sys.argv = ['train.py', 'data.resiz=1']\n"
        f"try: runpy.run_path({str(ROOT / 'scripts' / 'train.py')!r}, run_name='__main__')\n"
        "except SystemExit as stop: print(stop.code, [m for m in ('torch', 'lightning') if m in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.stdout.strip() == "1 []"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.resiz=224"], "There is no key data.resiz. Did you mean data.resize?"),
        (["epochs=3"], "There is no key epochs. Did you mean trainer.max_epochs?"),
        (["model=vgg", "model.dropot=0.1"], "There is no key model.dropot. Did you mean model.dropout?"),
        (["modell=vgg"], "There is no key modell. Did you mean model?"),
        (
            ["model=vggg"],
            "There is no model=vggg. Did you mean model=vgg? Choices: alexnet, bn_lenet, densenet, googlenet, lenet,",
        ),
        (["experiment=book/lennet"], "There is no experiment=book/lennet. Did you mean experiment=book/lenet?"),
        (["data.resize", "28"], "'data.resize' is no override: write KEY=VALUE"),
        (["model=5"], "model=5: a group takes the name of one of its choices, which --help lists."),
        (["data.resize=abc"], "data.resize must be a whole number from 1 to 2048, got 'abc'."),
        (["data.resize=abc", "hydra.run.dir=there"], "data.resize must be a whole number from 1 to 2048, got 'abc'."),
        (["+foo=1"], "There is no key foo."),
        (
            ["-m", "hydra.launcher.jobs_per_gp=2"],
            "There is no key hydra.launcher.jobs_per_gp. Did you mean hydra.launcher.jobs_per_gpu? (--cfg hydra prints",
        ),
    ],
)
def test_a_mistake_gets_one_message_and_no_traceback(run_script, tmp_path, arguments, message):
    finished = run_script("train.py", *arguments)
    assert finished.returncode == 1
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert len(finished.stderr.splitlines()) <= 3
    assert not (tmp_path / "outputs" / "runs").exists()


@pytest.mark.parametrize(("script", "argument"), [("train.py", "trainer=smoke"), ("reproduce.py", "--figures")])
def test_outputs_that_cannot_be_written_are_named(run_script, tmp_path, script, argument):
    (tmp_path / "outputs").write_text("a file where the folder should be")
    finished = run_script(script, argument)
    assert finished.returncode == 1
    assert re.search(r"outputs\S* cannot be written: \w[\w ]+\. Start from a folder that can be\.", finished.stderr)
    assert "Traceback" not in finished.stderr


def test_a_traceback_is_shown_to_a_user_who_asks_for_it(run_script):
    finished = run_script("train.py", "data.resize=abc", HYDRA_FULL_ERROR="1")
    assert finished.returncode != 0
    assert "Traceback" in finished.stderr


def test_a_pipe_that_closes_early_is_no_error():
    command = f"{sys.executable} {ROOT / 'scripts' / 'reproduce.py'} 7.5 | true"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert finished.stderr == ""


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_outside_the_environment_one_line_says_how_to_enter_it(script):
    program = f"import runpy; runpy.run_path('scripts/{script}', run_name='__main__')"
    finished = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, env={})
    assert finished.returncode == 1
    assert finished.stderr.count("\n") == 1
    assert ". .venv/bin/activate" in finished.stderr


def test_the_layer_summary_takes_any_model_and_size(run_script):
    finished = run_script("summarize.py", "model=vgg11", "data.resize=224")
    assert finished.returncode == 0, finished.stderr
    assert re.search(r"^Sequential +512x7x7 ", finished.stdout, re.MULTILINE)
    assert re.search(r"^total +128,806,154 +7,547,232,256 ", finished.stdout, re.MULTILINE)


def test_the_summary_of_a_grouped_network_says_what_grouping_saves(run_script):
    finished = run_script("summarize.py", "model=resnext18", "--depth", "2")
    assert "parameters 7,687,946 -> 1,616,906 (4.8 times fewer)" in finished.stdout
    assert "multiply-adds 225,465,344 -> 60,904,448 (3.7 times fewer)" in finished.stdout
    assert "  ResNeXtBlock" in finished.stdout


RECIPES = "lenet, alexnet, vgg, nin, googlenet, bn_lenet, resnet18, densenet, regnet or all"
MISTAKES = {
    "summarize.py": [
        (["model=vgg", "data.resize=16"], "VGG with 5 pooling blocks needs images of at least 32 pixels"),
        (["--depth", "0"], "--depth must be at least 1, got 0"),
        (["data.resze=3"], "There is no key data.resze. Did you mean data.resize?"),
    ],
    "reproduce.py": [
        (["lenet", "--seeds", "2", "seed=1"], "seed=1: reproduce.py gives each run its seed"),
        (["7.9"], "7.9 is no section or recipe: 7.1, 7.2"),
        (["--seeds", "3"], f"--seeds changes a recipe, and none is named: {RECIPES}"),
        (["lenet", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["data.resize=3"], f"data.resize=3 changes a recipe, and none is named: {RECIPES}"),
        (["lenet", "data.resze=3"], "There is no key data.resze. Did you mean data.resize?"),
    ],
    "soak.py": [(["--kills", "0"], "--kills must be at least 1, got 0")],
    "benchmark.py": [(["--repetitions", "0"], "--repetitions must be at least 1, got 0")],
    "predict.py": [(["latest", ""], "argument IMAGE: it is empty")],
    "evaluate.py": [([""], "The name of a run is empty. RUN is a folder, its name, latest, or best:SWEEP.")],
}
STARTED = ("reproduce.py", "predict.py", "evaluate.py")  # by a Python of its own in another test


@pytest.mark.parametrize(
    ("run", "script", "arguments", "message"),
    [
        (commands.run if number or script in STARTED else commands.run_fresh, script, *mistake)
        for script, mistakes in MISTAKES.items()
        for number, mistake in enumerate(mistakes)
    ],
)
def test_mistakes_with_the_other_scripts_get_one_message(tmp_path, run, script, arguments, message):
    finished = run(tmp_path, script, *arguments)
    assert finished.returncode != 0
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_sweep_within_a_process_refuses_trainings_in_several(run_script, tmp_path):
    sweep = ("-m", "launcher=basic", "trainer=ddp", "trainer.devices=2", "seed=0,1", "data=fashion_mnist_sample")
    finished = run_script("train.py", *sweep)
    assert finished.returncode == 1
    assert "trainer.devices=2 with trainer.strategy=ddp starts processes that would train other jobs" in finished.stderr
    assert "set launcher=gpu_pool." in finished.stderr
    assert not list(tmp_path.glob("outputs/sweeps/*/*/config.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run_name=x", "seed=0,1"],
            r"Two jobs would share the folder .*/x: run_name=x seed=0, and run_name=x seed=1\.",
        ),
        (["sweep=lr_range,resize"], r"sweep=lr_range,resize: one recorded sweep at a time\."),
        (["hydra.launcher.cpu_slots=0"], r"hydra\.launcher\.cpu_slots must be at least 1, got 0\."),
    ],
)
def test_a_sweep_that_cannot_start_says_why_in_one_line(run_script, arguments, message):
    finished = run_script("train.py", "-m", *arguments)
    assert finished.returncode == 1
    assert re.match(message, finished.stderr)
    assert finished.stderr.count("\n") == 1


def test_a_sweep_of_the_real_program_trains_each_job_once(run_script, tmp_path):
    sweep = ("-m", "seed=0,1", "data=fashion_mnist_sample", "trainer=smoke", "callbacks=none", "sweep_name=two")
    for message in ("done in", "done before"):
        finished = run_script("train.py", *sweep)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.count(message) == 2
        assert re.search(r"leaderboard: python .*scripts/report\.py outputs/sweeps/two\n", finished.stdout)
    names = {path.parent.name for path in (tmp_path / "outputs" / "sweeps" / "two").glob("*/result.json")}
    assert {re.sub(r"-\w{8}$", "", name) for name in names} == {
        "lenet-fashion_mnist_sample-smoke",
        "lenet-fashion_mnist_sample-smoke-seed1",
    }


def test_the_name_of_a_sweep_comes_from_what_it_changes(run_script):
    folders = []
    for words in (("seed=0,1", "model.lr=1"), ("model.lr=1", "seed=0,1", "callbacks=none"), ("seed=0,1", "model.lr=2")):
        finished = run_script("train.py", "-m", *words, "hydra.launcher.dry_run=true")
        folders.append(finished.stdout.partition(":")[0])
    assert folders[0] == folders[1] != folders[2]
