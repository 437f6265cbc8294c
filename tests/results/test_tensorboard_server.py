import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support.repository import ROOT
from support.waiting import wait_until
from torch.utils.tensorboard import SummaryWriter

from convnets.dashboard.hyperparameters import write_hyperparameters
from convnets.results import tensorboard_server
from convnets.training.train import train


def test_runs_and_sweeps_have_their_names_in_tensorboard(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("outputs/runs/a", "outputs/sweeps/b/1", "a, comma"):
        with SummaryWriter(name) as writer:
            writer.add_scalar("x", 1.0, 1)
        Path(name, "config.yaml").touch()
    cases: list[tuple[list[str], list[str]]] = [
        (["outputs/runs/a"], ["a"]),
        (["outputs/sweeps/b"], ["1"]),
        ([str(tmp_path / "a, comma"), "outputs/runs/a", "outputs/runs"], ["a, comma", "outputs/runs/a"]),
        (["outputs/runs/a", "outputs/sweeps/b"], ["outputs/runs/a", "outputs/sweeps/b/1"]),
    ]
    for number, (folders, names) in enumerate(cases):
        (links := tmp_path / f"links{number}").mkdir()
        with served(tensorboard_server.log_folder([Path(folder) for folder in folders], links)) as address:
            wait_until(lambda address=address, names=names: sorted(asked(f"{address}data/runs")) == names)
    assert [path.name for path in Path("outputs/runs").iterdir()] == ["a"]  # nothing was written there


def test_the_dashboard_answers_says_when_its_port_is_taken_and_stops_cleanly(small, tmp_path):
    train(small("logger=tensorboard", "trainer.max_epochs=1"), tmp_path / "outputs" / "runs" / "one")
    (tmp_path / "browser.py").write_text("import sys, pathlib; pathlib.Path('seen').write_text(sys.argv[1])")
    command = [sys.executable, str(ROOT / "scripts" / "dashboard.py"), "latest"]
    process = subprocess.Popen(
        [*command, "--open"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "BROWSER": f"{sys.executable} browser.py %s"},
    )  # fmt: skip
    line = process.stdout.readline()
    assert line.startswith("TensorBoard shows outputs/runs/one at http://localhost:")
    page = urllib.parse.urlsplit(line.split()[4])
    wait_until(lambda: asked(f"http://{page.netloc}/data/runs") == ["one"])
    wait_until(lambda: (tmp_path / "seen").exists() and (tmp_path / "seen").read_text() == page.geturl())
    query = urllib.parse.parse_qs(page.query)
    assert (page.fragment, query["smoothing"]) == ("timeseries", ["0"])
    pinned = json.loads(query["pinnedCards"][0])
    assert pinned == [{"plugin": "scalars", "tag": tag} for tag in ("val/accuracy", "val/loss", "train/loss")]
    assert {card["tag"] for card in pinned} <= {*asked(f"http://{page.netloc}/data/plugin/scalars/tags")["one"]}
    taken = str(page.port)
    second = subprocess.run([*command, "--port", taken], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (second.returncode, second.stderr) == (1, f"Port {taken} is in use: leave --port away.\n")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == ""


@pytest.mark.parametrize("models", [("lenet", "vgg", "resnext18"), ("resnext18", "lenet", "vgg")])
def test_every_hyperparameter_and_metric_is_listed_whichever_run_comes_first(compose, tmp_path, models):
    own = {
        "lenet": {"model.activation": "sigmoid", "trainer.gradient_clip_val": 1.0, "compile": "False"},
        "vgg": {"model.dropout": 0.5, "model.blocks": str(compose("model=vgg").model.blocks), "optimizer": "momentum"},
        "resnext18": {"model.bottleneck_ratio": "1.0", "compile": "reduce-overhead", "data": "fruit"},
    }
    options = {
        "lenet": ["trainer.gradient_clip_val=1.0"],
        "vgg": ["optimizer=momentum"],
        "resnext18": ["compile=reduce-overhead", "data.holdout=100"],
    }
    for number, model in enumerate(models):
        config = OmegaConf.to_container(compose(f"model={model}", *options[model]))
        groups = {"data": "fashion_mnist", "optimizer": "sgd", "schedule": "constant", "init": "xavier"}
        config["choices"] = {**groups, **{key: v for key, v in own[model].items() if key in groups}, "model": model}
        metrics = {"val/accuracy": 0.5, **({"test/accuracy": 0.25} if model == "resnext18" else {})}
        with SummaryWriter(tmp_path / f"{number}-{model}") as writer:
            write_hyperparameters(writer, 1, config, {"metrics": metrics, "train_seconds": 2.0})
    with served(tmp_path) as address:
        wait_until(lambda: len(asked(f"{address}data/runs")) >= 3)
        experiment = asked(f"{address}data/plugin/hparams/experiment", {})
        wanted = {"startIndex": 0, "sliceSize": 10, "allowedStatuses": ["STATUS_SUCCESS"], "colParams": []}
        answer = asked(f"{address}data/plugin/hparams/session_groups", wanted)
    types = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
    assert {"model.blocks", "model.dropout", "model.bottleneck_ratio", "model.activation", "init", "seed"} <= {*types}
    assert {"final/val_accuracy", "final/test_accuracy"} <= {i["name"]["tag"] for i in experiment["metricInfos"]}
    rows = {group["hparams"]["model"]: group["hparams"] for group in answer["sessionGroups"]}
    kinds = {bool: "DATA_TYPE_BOOL", float: "DATA_TYPE_FLOAT64", str: "DATA_TYPE_STRING"}
    for model, row in rows.items():
        assert row.items() >= own[model].items()
        assert {key: types.get(key) for key in row} == {key: kinds[type(value)] for key, value in row.items()}
    assert {*rows} == {*models}


@contextlib.contextmanager
def served(folder):
    """TensorBoard on the folder, started as the project does; gives its address."""
    with subprocess.Popen(tensorboard_server.command(folder, port=0), stderr=subprocess.PIPE, text=True) as process:
        address = next(found[0] for line in process.stderr if (found := re.search(r"http://localhost:\d+/", line)))
        try:
            yield address
        finally:
            process.kill()  # it does not always heed SIGTERM


def asked(address, request=None):
    """What TensorBoard answers."""
    query = "" if request is None else f"?request={urllib.parse.quote(json.dumps(request))}"
    with urllib.request.urlopen(address + query, timeout=20) as response:
        return json.load(response)


def test_with_many_runs_a_message_says_how_to_show_them(tmp_path):
    for number in range(41):
        folder = tmp_path / "outputs" / "runs" / f"run{number}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    command = [sys.executable, str(ROOT / "scripts" / "dashboard.py")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    assert process.stdout.readline() == (
        "Of more than 40 runs, here 41, Scalars and Custom Scalars show none at first: "
        "filter the runs on the left, or press TOGGLE ALL RUNS.\n"
    )
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_without_a_run_a_message_says_how_to_make_one(run_script):
    finished = run_script("dashboard.py")
    assert finished.returncode == 1
    assert finished.stderr == f"There is no run in outputs yet: python {ROOT}/scripts/train.py makes one.\n"
