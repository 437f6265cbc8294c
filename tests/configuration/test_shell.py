import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from convnets.configuration import shell
from convnets.configuration.composition import as_hydra_takes
from convnets.configuration.rules import ConfigurationError
from convnets.files import RunFolderError, removal, shown, typed
from convnets.results.trained_run import TrainedRun as Run
from convnets.training import command
from convnets.training.extend import extend
from convnets.training.train import train
from hydra_plugins.optuna_search.optuna_search import PACKAGES

ROOT = Path(__file__).parents[2]
TEXTS = st.text(st.characters(exclude_characters="\0\n\r$", exclude_categories=["Cs"]), min_size=1)


def value_of(word):
    return OverridesParser.create().parse_override(word).value()


@given(TEXTS)
def test_a_text_in_a_command_passes_the_shell_and_hydra(text):
    (word,) = shlex.split(shell.override("data.dir", text))
    assert value_of(word) == text


@pytest.mark.parametrize("value", [None, True, False, 3, 0.5, [[1, 16], [2, 32]]])
def test_a_value_in_a_command_passes_the_shell_and_hydra(value):
    (word,) = shlex.split(shell.override("model.blocks", value))
    assert value_of(word) == value


@pytest.mark.parametrize("path", ["/a/ü", "/写真", "/a b/c (d)", "/x=y", "relative/ünï", "/a b"])
def test_a_path_that_the_grammar_refuses_is_taken_as_it_is(path):
    assert value_of(as_hydra_takes(f"data.dir={path}")) == path


@pytest.mark.parametrize("folder", ["a,b", "net[2] it's", "x"])
def test_the_weights_to_start_from_are_found_wherever_one_is(tmp_path, monkeypatch, folder):
    run = tmp_path / folder / "outputs" / "runs" / "r"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    monkeypatch.chdir(tmp_path / folder)
    assert value_of(command._as_hydra_takes("init.from_run=latest")) == str(run)
    assert command._as_hydra_takes("init.from_run=r,typo").endswith(",typo")


def test_a_tilde_is_the_home_folder_in_every_key_that_is_a_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a b(c)")
    for key in ("data.dir", "hydra.run.dir", "hydra.sweep.dir"):
        assert value_of(as_hydra_takes(f"{key}=~/x")) == "/home/a b(c)/x"


@pytest.mark.parametrize("word", ["model=a,b", "model.lr=choice(1,2)", "model.blocks=[[1,2]]", "-m", "a='x y'", "+a=1"])
def test_words_of_hydras_grammar_stay_as_they_are(word):
    assert as_hydra_takes(word) == word


def test_the_command_of_a_script_works_from_wherever_one_is(tmp_path, monkeypatch):
    here = tmp_path / "a folder"
    here.mkdir()
    for folder in (ROOT, ROOT / "conf" / "model", here):
        monkeypatch.chdir(folder)
        program, *words = shlex.split(shell.script("report", typed(here)))
        assert program == "python"
        assert Path(words[0]).samefile(ROOT / "scripts" / "report.py")
        assert words[1:] == ["." if folder == here else str(here)]


def test_a_removal_works_whatever_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("-x", "a b", "it's", "ü(1)"):
        (tmp_path / name).mkdir()
        subprocess.run(removal(tmp_path / name), shell=True, check=True)
    assert not list(tmp_path.iterdir())


def test_an_extra_is_installed_by_its_packages():
    assert shlex.split(shell.installation("onnx"))[:4] == ["python", "-m", "pip", "install"]
    assert {word.partition(">")[0] for word in shlex.split(shell.installation("onnx"))[4:]} == {
        *("onnx", "onnxruntime", "onnxscript")
    }
    names = [re.split("[<>=]", word)[0] for word in (*shlex.split(shell.installation("search"))[4:], *PACKAGES)]
    assert names == ["optuna", "optuna"]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("alexnet", None),
        ("lenett", "lenet"),
        ("LeNet", "lenet"),
        ("leent", "lenet"),
        ("resnet", "resnet18"),
        ("densenet", None),
    ],
)
def test_a_hint_names_only_a_near_word(word, name):
    assert shell.nearest_name(word, ["lenet", "vgg", "resnet18"]) == name


def test_choices_of_a_user_are_taken_listed_and_completed(tmp_path, run_script):
    (tmp_path / "mine" / "data").mkdir(parents=True)
    shipped = (ROOT / "conf" / "data" / "fashion_mnist.yaml").read_text()
    lines = ["dir: ???" if line.startswith("dir:") else line for line in shipped.splitlines()]
    (tmp_path / "mine" / "data" / "mine.yaml").write_text("\n".join(lines))
    listed = run_script("train.py", "--config-dir", "mine", "--help")
    assert "image_folder, kmnist, mine, mnist" in listed.stdout
    printed = run_script("summarize.py", "--config-dir", "mine", "data=mine", "data.dir=/x y(z)")
    assert printed.returncode == 0, printed.stderr
    missing = run_script("summarize.py", "--config-dir", "mine", "data=mine")
    assert missing.stderr == "data.dir has no value: set data.dir=VALUE.\n"
    name = run_script("train.py", "run_name=ünï", "--cfg", "job", "--resolve").stdout
    assert "run_name: ünï" in name


@pytest.mark.parametrize("words", ["evaluate.py x", "report.py", "benchmark.py --quick", "train.py"])
def test_a_deleted_directory_is_one_line(tmp_path, words):
    script, *arguments = words.split()
    command = shlex.join([sys.executable, str(ROOT / "scripts" / script), *arguments])
    program = f"mkdir gone && cd gone && rmdir ../gone && {command}"
    finished = subprocess.run(program, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert finished.stderr.splitlines()[-1] == "The current directory was deleted: change to another."
    assert "Traceback" not in finished.stderr


def test_a_users_logger_shares_no_file_with_the_run(small, tmp_path):
    logger = {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "", "version": ""}
    config = small()
    config.logger = {"mine": logger}
    run_dir = tmp_path / "run"
    train(config, run_dir)
    assert [path.parent for path in tmp_path.rglob("metrics.csv")].count(run_dir) == 1
    assert (run_dir / "metrics.csv").read_text().startswith("epoch,")


def test_an_error_of_a_part_is_printed_once(small, tmp_path):
    config = small()
    config.logger = {"mine": {"_target_": "lightning.pytorch.loggers.WandbLogger"}}
    with pytest.raises(ConfigurationError) as refused:
        train(config, tmp_path / "run")
    assert "full_key" not in str(refused.value)
    assert str(refused.value).count("wandb") <= 2  # a sentence of Lightning's


def test_a_command_names_the_running_python_where_python_is_another(monkeypatch):
    assert shell.python() == "python"
    monkeypatch.setenv("PATH", "/nowhere")
    assert shlex.split(shell.script("report"))[0] == shown(Path(sys.executable))
    assert shlex.split(shell.installation("onnx"))[0] == shown(Path(sys.executable))


def run_as_printed(command):
    """What a shell makes of a command that was copied from a message, in the same folder."""
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, f"{command}\n{finished.stdout}{finished.stderr}"
    return finished.stdout


def test_every_command_in_a_message_works_as_it_stands(small, tmp_path, monkeypatch, capsys):
    here = tmp_path / "a folder (mine)"
    here.mkdir()
    monkeypatch.chdir(here)
    run = Run(here / "outputs" / "runs" / "it's mine")
    network = ("model=vgg", "model.blocks=[[1,4],[1,8]]", "model.hidden=[32,32]", "data.resize=16")
    config = small(*network, "logger=tensorboard", "trainer.max_epochs=1")
    train(config, run.path)
    told = capsys.readouterr().out
    dashboard = re.search(r"  dashboard +(python .*)", told)[1]
    with subprocess.Popen(["bash", "-c", f"exec {dashboard}"], stdout=subprocess.PIPE, text=True) as server:
        assert "TensorBoard shows" in server.stdout.readline()
        server.terminate()
    with pytest.raises(ConfigurationError) as refused:
        extend(run, ["model.lr=0.5"])
    again = run_as_printed(re.search(r"To start a new run from its weights: (.*)", str(refused.value))[1])
    assert "vgg" in again
    assert re.search(r"\d+ of \d+ tensors are those of", again)
    with pytest.raises(RunFolderError) as refused:
        train(OmegaConf.merge(config, {"seed": 3}), run.path)
    assert "seed: 0 there, 3 now" in str(refused.value)
    (run.path / "result.json").unlink()
    (run.path / "weights.safetensors").unlink()
    with pytest.raises(RunFolderError) as lacking:
        _ = run.classifier
    run_as_printed(re.search(r"to go on: (.*)\.$", str(lacking.value))[1])
    assert run.result
    assert "vgg" in run_as_printed(command.RESOLVERS["report_command"]("outputs"))
    train(config, run.path)
    run_as_printed(re.search(r"To repeat it: (rm -r .*)", capsys.readouterr().out)[1])
    assert not run.path.exists()
