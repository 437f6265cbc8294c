import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from convnets.callbacks import SharedCores, shared_cores
from convnets.callbacks.shared_cores import IdleThreads, busy_seconds, others_share


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def num_threads():
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_share_of_others_is_what_is_left_of_the_cores_time(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert others_share((10, 5, 100), (12, 6, 102)) == 0.25  # of 4 seconds 2 were worked, 1 of them here
    assert others_share((10, 5, 100), (11, 6.2, 102)) == 0
    assert others_share((10, 5, 100), (20, 5, 102)) == 1


def test_the_work_of_a_core_is_read_from_the_kernel(monkeypatch, tmp_path):
    lines = ["cpu  0 0 0 0", "cpu0 100 20 3 9999 777 4 5 6 50 0", "cpu1 200 0 0 9999 0 0 0 0", "cpu7 900 0 0 1 0 0 0 0"]
    (tmp_path / "stat").write_text("\n".join([*lines, "intr 1"]))
    monkeypatch.setattr(shared_cores, "PROC_STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    assert busy_seconds() == pytest.approx((138 + 200) / os.sysconf("SC_CLK_TCK"))


def test_while_others_compute_more_threads_are_kept_and_it_is_said_once(monkeypatch, two_threads, caplog):
    shares = iter([0.01, 0.5, 0.6, 0.02, 0.7, *[0.8] * 1000])
    seen = []

    def share(before, now):
        seen.append(num_threads())
        return next(shares)

    monkeypatch.setattr(shared_cores, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(shared_cores, "others_share", share)
    torch.ones(2**20).add_(1)  # the team that computes
    callback, module = SharedCores(), SimpleNamespace(device=torch.device("cpu"))
    without = num_threads() + 1  # the one that watches
    callback.on_train_start(SimpleNamespace(is_global_zero=True, num_devices=1), module)
    until(lambda: len(seen) >= 6)
    callback.on_train_end(None, module)
    assert [number > without for number in seen[:6]] == [False, False, True, True, False, True]
    until(lambda: num_threads() < without)
    assert caplog.text.count("Other programs take 50 % of the time of the ") == 1


def test_idle_threads_are_enough_for_the_processors(monkeypatch, two_threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    before = num_threads()
    idle = IdleThreads()
    until(lambda: num_threads() >= before + 3 * 2)  # 2 compute, and 3 teams bring one more each: 5 of OpenMP's on 4
    idle.end()
    until(lambda: num_threads() == before)


def test_a_training_beside_others_gives_the_same_bits(small, tmp_path, monkeypatch, two_threads):
    from convnets.training.train import train

    config = small("trainer.limit_train_batches=null", "trainer.max_epochs=5")
    monkeypatch.setattr(shared_cores, "CHECK_SECONDS", 0.05)
    for name, share in (("alone", 0.0), ("crowded", 0.9)):
        monkeypatch.setattr(shared_cores, "others_share", lambda before, now, share=share: share)
        train(config, tmp_path / name)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("alone", "crowded")]
    assert weights[0] == weights[1]
    assert "Other programs take 90 %" in (tmp_path / "crowded" / "train.log").read_text()
