import contextlib
import fcntl
import io
import json
import os
import pty
import re
import signal
import statistics
import struct
import subprocess
import sys
import termios
import time
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from support import commands
from support.waiting import wait_until

from hydra_plugins.gpu_pool_launcher._pool import POLL_SECONDS, Job, Pool
from hydra_plugins.gpu_pool_launcher._slots import Gpu, Slots, find_gpus
from hydra_plugins.gpu_pool_launcher._table import Table, duration, short_names

STUB = Path(__file__).parent / "stub.py"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An environment whose nvidia-smi lists as many GPUs as are asked for, with locks of its own."""

    def machine(num_gpus, listing=None):
        lines = listing or [f"GPU {n}: NVIDIA Fake (UUID: GPU-fake-{n})" for n in range(num_gpus)]
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n" + ("".join(f"echo '{line}'\n" for line in lines) or "exit 9\n"))
        program.chmod(0o755)
        environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        return {**environment, "PATH": f"{program.parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}

    return machine


STARTED = []


@pytest.fixture(autouse=True)
def nothing_goes_on():
    """A test that fails leaves no sweep behind, which would trouble the next test."""
    yield
    while STARTED:
        with STARTED.pop() as process:
            process.kill()


def sweep(environment, tmp_path, *arguments, program=(str(STUB),), under=()):
    process = subprocess.Popen(
        [*under, sys.executable, *program, "-m", *arguments],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def finished(environment, tmp_path, *arguments):
    process = commands.Process(tmp_path, commands.as_main, str(STUB), "-m", *arguments, environment=environment)
    out, err = process.communicate()
    return process.returncode, out, err


def facts(tmp_path):
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(tmp_path.glob("swept/*/facts.json"))}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_gpu_has_one_job_at_a_time_until_the_queue_is_empty(machine, tmp_path):
    words = ("seconds=0.2,1.1,0.5", "number=range(3)", "hydra.sweep.subdir=${number}-${seconds}")
    code, out, err = finished(machine(3), tmp_path, *words)
    assert code == 0, err
    jobs = list(facts(tmp_path).values())
    assert len(jobs) == 9
    jobs.sort(key=lambda job: job["started"])
    by_gpu = {gpu: [job for job in jobs if job["visible"] == gpu] for gpu in "012"}
    assert sum(map(len, by_gpu.values())) == 9
    for sequence in by_gpu.values():
        for before, after in pairwise(sequence):
            assert before["ended"] <= after["started"] + 0.02  # the kernel's clock ticks in hundredths
    assert json.loads(out.rpartition("returned ")[2]) == [1.5 * n for _ in range(3) for n in range(3)]


def test_a_job_that_fails_in_whatever_way_fails_alone(machine, tmp_path):
    code, out, err = finished(machine(2), tmp_path, "end=well,raise,exit,kill", "hydra.sweep.subdir=${end}")
    assert code == 1
    assert set(facts(tmp_path)) == {"well", "raise", "exit", "kill"}
    assert (tmp_path / "swept" / "well" / "done.json").exists()
    assert re.search(
        r"raise failed \(exit code 1\); its log is swept/logs/raise\.log\n(.*\n)*.*ValueError: told to", out
    )
    assert re.search(r"exit failed \(exit code 3\); its log is swept/logs/exit\.log\n(.*\n)*?    leaving early", out)
    assert "kill failed (killed by SIGKILL); its log is swept/logs/kill.log" in out
    assert "3 of 4 jobs failed: see above." in err


def test_the_same_command_does_what_is_not_done(machine, tmp_path):
    finished(machine(0), tmp_path, "end=well,raise", "hydra.sweep.subdir=${end}")
    before = facts(tmp_path)
    code, out, _ = finished(machine(0), tmp_path, "end=well,raise", "hydra.sweep.subdir=${end}")
    assert code == 1
    assert facts(tmp_path)["well"] == before["well"]
    assert facts(tmp_path)["raise"]["pid"] != before["raise"]["pid"]
    assert "well: done before score 0.2500" in out
    code, out, _ = finished(machine(0), tmp_path, "end=well", "number=0,2", "hydra.sweep.subdir=${end}${number}")
    assert json.loads(out.rpartition("returned ")[2]) == [0.0, 3.0]
    code, out, _ = finished(machine(0), tmp_path, "end=well", "number=0,2", "hydra.sweep.subdir=${end}${number}")
    assert json.loads(out.rpartition("returned ")[2]) == [0.0, 3.0]  # from the files of the first time


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_process_outlives_the_sweep(machine, tmp_path, sent, code):
    """Neither a job, nor one that ignores SIGTERM, nor a grandchild that has left the process group."""
    arguments = ("number=1,2", "seconds=1000", "grandchild=true", "stubborn=true,false")
    process = sweep(machine(2), tmp_path, *arguments, "hydra.sweep.subdir=${number}${stubborn}")
    wait_until(lambda: len(facts(tmp_path)) == 2)
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode == code
    pids = [job[key] for job in facts(tmp_path).values() for key in ("pid", "grandchild")]
    assert len(pids) == 4
    wait_until(lambda: not any(map(alive, pids)), seconds=10)


def test_a_second_signal_does_not_wait(machine, tmp_path):
    arguments = ("seconds=1000", "stubborn=true", "number=1,2", "hydra.launcher.grace_seconds=1000")
    process = sweep(machine(2), tmp_path, *arguments)
    wait_until(lambda: len(facts(tmp_path)) == 2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "stopping: the jobs have 1000 s to save; one more Ctrl-C ends them at once\n" in out
    assert "SIGINT: stopped. The same command goes on." in err


def test_a_sweep_under_nohup_outlives_the_terminal(machine, tmp_path):
    process = sweep(machine(1), tmp_path, "number=1,2", "seconds=0.5", under=("nohup",))
    wait_until(lambda: len(facts(tmp_path)) == 1)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(facts(tmp_path)) == 2


def test_what_a_finished_job_leaves_behind_is_killed(machine, tmp_path):
    code, _, _ = finished(machine(0), tmp_path, "grandchild=true")
    assert code == 0
    assert not alive(facts(tmp_path)["number0"]["grandchild"])


def test_fail_fast_stops_at_the_first_failure(machine, tmp_path):
    arguments = ("number=1,2,3", "hydra.launcher.fail_fast=true", "end=raise,well", "seconds=0.1")
    code, _, err = finished(machine(0), tmp_path, *arguments, "hydra.sweep.subdir=${number}${end}")
    assert code == 1
    assert set(facts(tmp_path)) == {"1raise"}
    assert "1 of 6 jobs failed: see above. 5 more were stopped or not begun; the same command runs them." in err


def test_a_dry_run_says_what_would_be_done(machine, tmp_path):
    finished(machine(0), tmp_path, "number=1")
    arguments = ("number=1,2,3", "hydra.launcher.dry_run=true", "hydra.launcher.estimated_seconds=90")
    code, out, _ = finished(machine(2), tmp_path, *arguments)
    assert code == 0
    assert out.splitlines() == [
        "swept: 3 jobs, 2 to do, 2 at a time",
        "  done before  number1  about 1 min 30 s",
        "  to do        number2  about 1 min 30 s",
        "  to do        number3  about 1 min 30 s",
        "about 1 min 30 s in all",
    ]
    assert set(facts(tmp_path)) == {"number1"}


def test_jobs_may_need_several_gpus(machine, tmp_path):
    code, _, err = finished(machine(3), tmp_path, "gpus=2,1,auto", "hydra.sweep.subdir=${gpus}", "seconds=0.5")
    assert code == 0, err
    used = {name: job["visible"].split(",") for name, job in facts(tmp_path).items()}
    assert {name: len(gpus) for name, gpus in used.items()} == {"2": 2, "1": 1, "auto": 1}
    code, _, err = finished(machine(3), tmp_path, "gpus=4", "hydra.sweep.subdir=too_many")
    assert code == 1
    assert "too_many needs 4 GPUs, and there are 3" in err


@pytest.mark.parametrize("setting", ["jobs_per_gpu=0", "cpu_slots=0", "gpus_per_job=0"])
def test_a_sweep_that_could_never_start_a_job_is_refused(machine, tmp_path, setting):
    code, _, err = finished(machine(0), tmp_path, "number=1", f"hydra.launcher.{setting}")
    assert code == 1
    assert re.search(rf"hydra\.launcher\.{setting[:-2]} must be (auto or )?at least 1, got 0", err)
    assert not facts(tmp_path)


def test_two_sweeps_share_a_box(machine, tmp_path):
    environment = machine(1)
    subdir = "hydra.sweep.subdir=${seconds}-${number}"
    sweeps = [sweep(environment, tmp_path, f"seconds={seconds}", "number=1,2", subdir) for seconds in (1.01, 1.02)]
    for process in sweeps:
        process.communicate(timeout=60)
        assert process.returncode == 0
    jobs = sorted(facts(tmp_path).values(), key=lambda job: job["started"])
    assert len(jobs) == 4
    for before, after in pairwise(jobs):
        assert before["ended"] <= after["started"] + 0.02


def test_two_sweeps_of_the_same_jobs_run_none_at_the_same_time(machine, tmp_path):
    """As when a sweep was killed, and is started again while its jobs still save."""
    jobs = ("number=1,2", "hydra.launcher.cpu_slots=2")
    first = sweep(machine(0), tmp_path, *jobs, "seconds=1000")
    wait_until(lambda: len(facts(tmp_path)) == 2)
    second = sweep(machine(0), tmp_path, *jobs)
    assert second.stdout.readline() == "waiting: another sweep runs these jobs\n"
    stopped = time.time()
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    for name, job in facts(tmp_path).items():
        assert stopped < job["started"]
        assert (tmp_path / "swept" / "logs" / f"{name}.log").read_text().count(f": {name}") == 2


def test_only_the_output_of_the_failed_attempt_is_shown(machine, tmp_path):
    finished(machine(0), tmp_path, "end=exit")
    code, out, _ = finished(machine(0), tmp_path, "end=kill")
    assert code == 1
    assert "leaving early" in (tmp_path / "swept" / "logs" / "number0.log").read_text()
    assert out.splitlines()[-1] == "number0 failed (killed by SIGKILL); its log is swept/logs/number0.log"


def test_a_job_s_environment_is_that_of_a_single_run(machine, tmp_path):
    environment = {**machine(0), "LOCAL_RANK": "1", "MASTER_ADDR": "somewhere"}
    environment.pop("OMP_NUM_THREADS", None)
    code, _, _ = finished(environment, tmp_path, "number=1,2", "hydra.launcher.cpu_slots=2", "seconds=0.5")
    assert code == 0
    one, two = facts(tmp_path).values()
    threads = str(max(len(os.sched_getaffinity(0)) // 2, 1))
    for job in (one, two):
        assert job["environment"] == {"OMP_NUM_THREADS": threads, "LOCAL_RANK": None, "MASTER_ADDR": None}
    assert max(one["started"], two["started"]) < min(one["ended"], two["ended"])


def test_jobs_are_started_as_the_sweep_was(machine, tmp_path):
    """As a module, with another config name and an additional folder of configuration."""
    folder = tmp_path / 'with "quotes", commas=and spaces'
    (folder / "extra").mkdir(parents=True)
    (folder / "extra" / "more.yaml").write_text("more: 7\n")
    environment = {**machine(0), "PYTHONPATH": f"{STUB.parent}:{os.environ.get('PYTHONPATH', '')}"}
    arguments = ("--config-name", "other", "--config-dir", str(folder), "+extra=more", "seconds=0.1,0.2")
    subdir = "hydra.sweep.subdir=${number}-${seconds}"
    process = sweep(environment, folder, *arguments, subdir, program=("-m", "stub"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert {name: job["config"]["extra"] for name, job in facts(folder).items()} == {
        "40-0.1": {"more": 7},
        "40-0.2": {"more": 7},
    }


def test_twins_share_a_process_and_others_may_not_share_a_folder(machine, tmp_path):
    code, out, err = finished(machine(0), tmp_path, "seconds=0.1,0.10", "number=2")
    assert code == 0, err
    assert json.loads(out.rpartition("returned ")[2]) == [3.0, 3.0]
    assert (tmp_path / "swept" / "logs" / "number2.log").read_text().count(" on cpu0: number2") == 1
    code, _, err = finished(machine(0), tmp_path, "seconds=0.1,0.3", "number=5")
    assert code == 1
    assert re.search(
        r"share the folder .*number5: .*seconds=0\.1.*, and .*seconds=0\.3.*\. Choose a hydra\.sweep\.subdir", err
    )
    assert not (tmp_path / "swept" / "number5").exists()


def test_a_wrong_job_keeps_all_from_starting(machine, tmp_path):
    code, _, err = finished(machine(0), tmp_path, "number=1,2", "hydra.sweep.subdir=${number}-${nothing}")
    assert code == 1
    assert "nothing" in err
    assert not facts(tmp_path)


# Places

GPUS = [Gpu("0", "GPU-a"), Gpu("1", "GPU-b")]


@pytest.fixture
def places(tmp_path):
    """Slots on two GPUs, whose locks are closed at the end."""
    made = []

    def places(**options):
        made.append(Slots(GPUS, lock_dir=tmp_path, **options))
        return made[-1]

    yield places
    for slots in made:
        for lock in slots._locks.values():
            lock.close()


def shell_jobs(tmp_path, commands):
    """Jobs that are no Python programs, so that what they take is the launcher's."""
    return [
        Job(number, f"job{number}", tmp_path, ["sh", "-c", command], tmp_path / f"{number}.log")
        for number, command in enumerate(commands)
    ]


def test_a_gpu_is_handed_over_in_less_than_half_a_second(tmp_path):
    note = f"echo $CUDA_DEVICE_ORDER $CUDA_VISIBLE_DEVICES $(date +%s.%N) >> {tmp_path}/notes-$$"
    jobs = shell_jobs(tmp_path, [f"{note}; sleep {length}; {note}" for length in [0.2, 0.9, 0.5] * 4])
    slots = Slots([Gpu(str(number), f"GPU-{number}") for number in range(4)], lock_dir=tmp_path / "locks")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
    Pool(slots, environment).run(jobs, lambda notice: None)
    by_gpu = {gpu: [] for gpu in "0123"}
    for path in tmp_path.glob("notes-*"):
        (order, gpu, started), (_, _, ended) = map(str.split, path.read_text().splitlines())
        assert order == "PCI_BUS_ID"  # as nvidia-smi numbers them
        by_gpu[gpu].append((float(started), float(ended)))
    gaps = [after[0] - before[1] for spans in by_gpu.values() for before, after in pairwise(sorted(spans))]
    assert len(gaps) == 12 - 4
    assert min(gaps) > 0
    assert statistics.median(gaps) < 0.5  # others may use the processor meanwhile


def test_the_launcher_adds_less_than_a_tenth_of_a_second_to_a_job(tmp_path):
    """Of the processor, for other tests may run beside this one, and the wait until its end is noticed."""
    num_jobs, measured = 20, []
    for _ in range(3):
        before = os.times()
        Pool(Slots([]), os.environ).run(shell_jobs(tmp_path, ["true"] * num_jobs), lambda notice: None)
        measured.append((sum(os.times()[:4]) - sum(before[:4])) / num_jobs)
    assert min(measured) + POLL_SECONDS < 0.1


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["0", "1"]),
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        ("GPU-fake-1", ["GPU-fake-1"]),
        ("MIG-x, MIG-y", ["MIG-x", "MIG-y"]),
        ("0,-1,1", ["0"]),
        ("", []),
    ],
)
def test_visible_gpus_are_kept_as_they_are_called(machine, visible, names):
    environment = machine(2)
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    assert [gpu.name for gpu in find_gpus(environment)] == names


def test_an_index_and_its_uuid_share_a_lock(machine):
    environment = machine(2)
    by_index, by_uuid = (find_gpus({**environment, "CUDA_VISIBLE_DEVICES": name})[0] for name in ("1", "GPU-fake-1"))
    assert by_index.identity == by_uuid.identity


def test_a_gpu_in_parts_is_given_out_in_parts(machine):
    listing = [
        "GPU 0: NVIDIA H100 (UUID: GPU-a)",
        "  MIG 1g.10gb     Device  0: (UUID: MIG-1)",
        "  MIG 1g.10gb     Device  1: (UUID: MIG-2)",
        "GPU 1: NVIDIA H100 (UUID: GPU-b)",
    ]
    assert [gpu.name for gpu in find_gpus(machine(0, listing))] == ["MIG-1", "MIG-2", "1"]


def test_without_nvidia_smi_there_is_no_gpu():
    assert find_gpus({"PATH": "/nowhere"}) == []


def test_places_are_given_out_once_and_come_back(places):
    slots = places()
    assert slots.take(1) == ["0"]
    assert slots.take(2) is None
    assert slots.take(1) == ["1"]
    assert slots.take(1) is None
    slots.give_back(["0"])
    assert slots.take(1) == ["0"]


def test_small_jobs_share_a_gpu_and_large_ones_do_not(places):
    slots = places(per_gpu=2)
    assert len(slots) == 4
    assert [slots.take(1) for _ in range(3)] == [["0"], ["1"], ["0"]]
    assert slots.take(2) is None
    slots.give_back(["0"])
    slots.give_back(["0"])
    slots.give_back(["1"])
    assert slots.take(2) == ["0", "1"]
    assert slots.take(1) is None


def test_a_gpu_of_another_sweep_is_waited_for(places):
    mine, other = places(), places()
    assert other.take(1) == ["0"]
    assert mine.take(2) is None
    assert mine.take(1) == ["1"]
    other.give_back(["0"])
    assert mine.take(1) == ["0"]


def test_threads_are_divided_among_the_slots_of_the_processor():
    processors = len(os.sched_getaffinity(0))
    assert Slots([], cpu_slots=1).threads_per_job is None
    assert Slots([], cpu_slots=2).threads_per_job == max(processors // 2, 1)
    assert Slots(GPUS).threads_per_job is None


# What is shown


def job(tmp_path, number, **values):
    return Job(number, f"job{number}", tmp_path, [], tmp_path / "log", progress_path=tmp_path / "p.json", **values)


def printed(renderable, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_the_live_table_shows_each_job_where_it_is(tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({"epoch": 3, "num_epochs": 10, "metrics": {"val/score": 0.5}}))
    jobs = [job(tmp_path, 0, state="done", seconds=100.0), job(tmp_path, 1, state="failed", seconds=3.0)]
    jobs += [job(tmp_path, 2, state="running", places=["4"], started=time.time() - 30)]
    jobs += [job(tmp_path, number) for number in range(3, 9)]
    os.utime(tmp_path / "p.json", (time.time() + 1, time.time() + 1))
    table = Table(jobs, 2, "swept", "val/score")
    text = printed(table._render(110), 110)
    assert "swept: 1 done, 1 running, 6 queued, 1 failed, about 5 min 3" in text
    assert re.search(r"job2\s+4\s+3/10\s+0\.5000\s+30 s\s+1 min 10 s", text)
    assert "and 3 more" in text
    assert f"failed: {os.path.relpath(tmp_path / 'log')}" in text.replace("\n", "")
    assert re.search(r"job2 +4 +3/10 +0\.5000 +1 min 10 s", printed(table._render(60), 60))


def test_what_a_sweep_waits_for_is_in_the_table_and_without_jobs_there_is_no_table(tmp_path):
    table = Table([job(tmp_path, 0, state="done", seconds=100.0)], 2, "swept", "score")
    table.update("waiting for rain")
    heading, bar, notice = printed(table._render(), 110).splitlines()
    assert (heading, set(bar.strip()), notice) == ("swept: 1 done", {"━"}, "waiting for rain")


@pytest.mark.parametrize(
    ("names", "shared", "short"),
    [
        (
            ["lenet-lr0.1-seed0-01234567", "lenet-lr1e-05-seed0-89abcdef", "lenet-seed0-00000000"],
            "lenet seed0",
            ["lr0.1", "lr1e-05", "lenet seed0"],
        ),
        (["lenet-01234567", "lenet-89abcdef"], "lenet", ["01234567", "89abcdef"]),
        (["lenet-lr0.1-01234567"], "", ["lenet lr0.1"]),
        (["a-b", "b-a"], "", ["a-b", "b-a"]),
        (["3", "4"], "", ["3", "4"]),
    ],
)
def test_what_all_names_share_is_left_out_as_long_as_they_differ(names, shared, short):
    assert short_names(names) == (shared, dict(zip(names, short, strict=True)))


def test_results_stand_in_the_order_of_the_jobs_the_highest_marked(tmp_path):
    jobs = [Job(n, f"lenet-lr{n}-{n:08x}", tmp_path, [], tmp_path / "log", state="done", seconds=n) for n in range(30)]
    jobs[1].state, jobs[2].state = "failed", "queued"
    returned = {**{number: number / 100 for number in range(30)}, 3: "text", 4: float("nan"), 25: 0.75}
    lines = printed(Table(jobs, 2, "swept")._results(returned), 60).splitlines()
    assert lines[:2] == ["swept: 28 done, 1 queued, 1 failed", "all jobs: lenet"]
    assert [line.split() for line in lines[2:7]] == [
        ["job", "returned", "took"],
        ["lr0", "done", "0.0000"],
        ["lr1", "failed", "1", "s"],
        ["lr3", "done", "3", "s"],
        ["lr4", "done", "4", "s"],
    ]
    assert lines[-2].split() == ["lr25", "done", "0.7500", "25", "s", "highest"]
    assert lines[-1].strip() == "and 8 more"
    assert len(lines) == 25


def test_a_terminal_that_becomes_narrower_shows_the_table_alone_and_then_the_results(machine, tmp_path):
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    name = "hydra.sweep.subdir=lenet-fashion_mnist_sample-number${number}-onecycle-seed0-0000000${number}"
    environment = {key: value for key, value in machine(2).items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, str(STUB), "-m", "number=0,1,2", "seconds=2", name],
        cwd=tmp_path, env={**environment, "TERM": "xterm"}, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    STARTED.append(process)
    os.close(terminal)
    shown = b""
    with (
        os.fdopen(master, "rb", buffering=0) as screen,
        contextlib.suppress(OSError),
    ):  # which ends a terminal's reading
        while part := screen.read(65536):
            shown += part
            if b"lenet" in shown and b"1/2" in shown:
                fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    assert process.wait() == 0
    live, _, after = shown.decode().partition("\x1b[?1049l")
    assert live.startswith("\x1b[?1049h")  # a screen of its own
    *_, last = live.split("\x1b[H")
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", last).splitlines()]
    assert max(map(len, lines)) <= 60
    assert "all jobs: lenet fashion_mnist_sample onecycle seed0" in lines
    assert [line.split()[0] for line in lines if "1/2" in line] == ["number2"]
    after = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", after)
    assert re.findall(r"^(number\d) +done +0\.2500 +\d s", after, re.MULTILINE) == ["number0", "number1", "number2"]


def test_progress_of_an_earlier_attempt_is_not_shown(tmp_path):
    (tmp_path / "p.json").write_text('{"epoch": 9, "num_epochs": 10}')
    assert job(tmp_path, 0, state="running", started=time.time() + 10).progress() == {}
    (tmp_path / "p.json").write_text("[1")
    assert job(tmp_path, 0).progress() == {}


@pytest.mark.parametrize(
    "text",
    [
        '{"epoch": "2", "num_epochs": 4, "metrics": {"score": "high"}}',
        '{"epoch": 2, "num_epochs": "4", "metrics": [0.5]}',
        '{"epoch": 2, "num_epochs": 0, "metrics": null}',
    ],
)
def test_a_progress_file_of_another_kind_does_not_end_the_sweep(tmp_path, text):
    running = job(tmp_path, 2, state="running", places=["4"], started=time.time() - 30)
    (tmp_path / "p.json").write_text(text)
    assert re.search(r"job2 +4 .* 30 s", printed(Table([running], 2, "swept", "score")._render(), 110))


@pytest.mark.parametrize(("seconds", "text"), [(42.4, "42 s"), (200, "3 min 20 s"), (18420, "5 h 07 min")])
def test_durations_read_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text
