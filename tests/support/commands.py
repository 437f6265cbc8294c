"""Processes of ours that need not import torch first: each is a fork of one that has.

What a start itself does is tested with a fresh Python instead.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from support.repository import ROOT

# What a command imports, for the process that is forked.
import convnets.results.leaderboard
import convnets.results.prediction
import convnets.results.report
import convnets.training.layer_summary
import convnets.training.train  # noqa: F401

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])
Plugins.instance()  # finds them, once for all


class Process:
    """A function called in a process of its own, in a folder; used as a subprocess.Popen."""

    def __init__(self, folder, function, *arguments, environment=None):
        with pytest.MonkeyPatch.context() as patch:  # for the process that is forked, should it not run yet
            patch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)
            forkserver.ensure_running()
        outputs = [f"/proc/{os.getpid()}/fd/{os.memfd_create(name)}" for name in ("stdout", "stderr")]
        self._outputs = [Path(output) for output in outputs]
        environment = dict(os.environ if environment is None else environment)
        self._process = CONTEXT.Process(target=_call, args=(folder, environment, outputs, function, arguments))
        self._process.start()
        self.pid = self._process.pid
        self.kill = self._process.kill

    @property
    def returncode(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout=120):
        """Wait for the end; what was written to stdout and to stderr."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        texts = [output.read_text() for output in self._outputs]
        for output in self._outputs:
            os.close(int(output.name))
        return texts


def _call(folder, environment, outputs, function, arguments):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    function(*arguments)


def as_main(path, *arguments):
    """Do what `python PATH ARGUMENTS` does."""
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")


def start(folder, name, *arguments, **environment):
    """`python scripts/NAME ARGUMENTS`, started in the folder."""
    path = str(ROOT / "scripts" / name)
    return Process(folder, as_main, path, *arguments, environment={**os.environ, **environment})


def run_fresh(folder, name, *arguments):
    """`python scripts/NAME ARGUMENTS`, run in the folder by a Python of its own, which imports what it needs."""
    command = [sys.executable, str(ROOT / "scripts" / name), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def run(folder, name, *arguments, **environment):
    """The same in a fork."""
    process = start(folder, name, *arguments, **environment)
    out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
