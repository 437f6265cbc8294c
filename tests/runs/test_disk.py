import json

import pytest
from convnets.runs.record import FINISHED_FILES

from convnets.files import RunFolderError, locked
from convnets.runs import disk
from convnets.runs.disk import as_table, prunable, prune, prune_after_asking, weigh
from convnets.text import size


@pytest.fixture
def make_run(tmp_path):
    def make_run(name, finished=True):
        path = tmp_path / name
        (path / "checkpoints").mkdir(parents=True)
        for file in FINISHED_FILES if finished else ("config.yaml",):
            (path / file).write_text(json.dumps({}))
        (path / "checkpoints" / "last.ckpt").write_bytes(b"x" * 3000)
        (path / "checkpoints" / "previous.ckpt").write_bytes(b"x" * 2000)
        return path

    return make_run


@pytest.fixture
def answer(monkeypatch):
    """Sit at the terminal, and answer the next question."""

    def answer(text):
        asked = []
        monkeypatch.setattr(disk.sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or text)
        return asked

    return answer


def test_folders_are_weighed_by_their_files(make_run):
    path, other = make_run("a"), make_run("b", finished=False)
    (path / "weights.safetensors").write_bytes(b"x" * 1500)
    weight = weigh(path)
    assert (weight.total, weight.checkpoints, weight.weights) == (5000 + 1500 + 3 * 2, 5000, 1500)
    lines = as_table([weigh(other), weight]).splitlines()
    assert lines[1].split()[1:] == ["6.5", "kB", "5.0", "kB", "1.5", "kB"]
    assert lines[3].split() == ["all", "2", "11.5", "kB", "10.0", "kB", "1.5", "kB"]
    assert as_table([weight] * 3, most_rows=1).splitlines()[2].startswith("2 more")
    assert [size(n) for n in (999, 1000, 2_500_000, 44_756_040_000)] == ["999 B", "1.0 kB", "2.5 MB", "44.8 GB"]


def test_only_the_checkpoints_of_whole_finished_free_runs_go(make_run, answer, capsys):
    done, unfinished, busy, torn = (
        make_run("done"),
        make_run("unfinished", finished=False),
        make_run("busy"),
        make_run("torn"),
    )
    (torn / "weights.safetensors").unlink()
    asked = answer("y")
    with locked(busy):
        assert prune_after_asking([done, unfinished, busy, torn]) == 0
    assert asked == ["Remove 2 checkpoints (5.0 kB)? [y/N] "]
    assert "last.ckpt, previous.ckpt" in capsys.readouterr().out
    assert not (done / "checkpoints").exists()
    assert all((done / name).exists() for name in FINISHED_FILES)
    assert all((path / "checkpoints" / "last.ckpt").exists() for path in (unfinished, busy, torn))
    assert prunable(done) == []


@pytest.mark.parametrize("text", ["", "n", "no", "yess"])
def test_anything_but_yes_keeps_them(make_run, answer, text, capsys):
    path = make_run("run")
    answer(text)
    assert prune_after_asking([path]) == 0
    assert len(prunable(path)) == 2
    assert "Nothing was removed." in capsys.readouterr().out


def test_where_nobody_can_be_asked_only_yes_removes(make_run, monkeypatch, capsys):
    path = make_run("run")
    monkeypatch.setattr(disk.sys.stdin, "isatty", lambda: False, raising=False)
    assert prune_after_asking([path]) == 1
    assert "Nobody can be asked here, so nothing was removed: add --yes." in capsys.readouterr().err
    assert len(prunable(path)) == 2
    assert prune_after_asking([path], without_asking=True) == 0
    assert prunable(path) == []
    assert prune_after_asking([path]) == 0
    assert "There is no checkpoint of a finished run" in capsys.readouterr().out


def test_a_run_that_is_taken_or_extended_after_the_question_keeps_them(make_run, monkeypatch, capsys):
    busy, extended = make_run("busy"), make_run("extended")
    (extended / "result.json").unlink()
    with pytest.raises(RunFolderError, match="extended is being extended: its checkpoints stay"):
        prune(extended)
    monkeypatch.setattr(disk, "prunable", lambda path: [path / "checkpoints" / "last.ckpt"])
    with locked(busy):
        assert prune_after_asking([busy], without_asking=True) == 1
    assert "in use by process" in capsys.readouterr().err
    assert (busy / "checkpoints" / "last.ckpt").exists()
