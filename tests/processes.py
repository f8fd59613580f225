"""Processes that start at once: copies of one that has imported what a run needs.

A new interpreter takes seconds until it has imported PyTorch. What does not test its start is
therefore run in copies of a server, one for each process of the test run.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

from experiments.faults.kill_loop import run_and_end

IMPORTED = [
    *("tests", "tdro_lightning.cli", "tdro_lightning.assembly.fit", "tests.fixtures.training"),
    *("tests.processes", "tests.faulty"),
]


def copies() -> ForkServerContext:
    """The context of `multiprocessing` whose processes are copies."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def in_processes(count: int, work: Callable[..., object], *given: Any) -> None:
    """Run `work(number, *given)` in new processes, numbered from 0, and wait for their end."""
    copies()
    arguments = (dict(os.environ), work, given)
    mp.start_processes(_work, arguments, nprocs=count, start_method="forkserver")


def _work(
    number: int, environment: dict[str, str], work: Callable[..., object], given: Any
) -> None:
    _adopt(environment)
    work(number, *given)


def _adopt(environment: dict[str, str]) -> None:
    """Take the environment of the process that asked for this one, not the server's."""
    os.environ.clear()
    os.environ.update(environment)


class Started:
    """A command in a process of its own.

    Args:
        folder: in which it runs.
        arguments: of the command line.
        environment: variables to change.
    """

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.output = folder / f"output-{time.monotonic_ns()}.txt"
        given = (folder, arguments, self.output, {**os.environ, **environment})
        self._process = copies().Process(target=_command, args=given)
        self._process.start()
        atexit.register(self._end)

    def _end(self) -> None:
        """Leave no process behind where a test has failed before its end."""
        if self._process.is_alive():
            self._process.kill()

    @property
    def printed(self) -> str:
        """What it has printed until now, errors included."""
        return self.output.read_text(encoding="utf-8") if self.output.exists() else ""

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def send_when(self, number: signal.Signals, now: Callable[[], bool]) -> None:
        """Send it a signal as soon as something is so."""
        while not now():
            assert self.is_running, self.printed
            time.sleep(0.02)
        self.send(number)

    def wait(self, timeout: float = 200.0) -> int:
        """Wait for its end; its exit code. It is killed after `timeout` seconds."""
        self._process.join(timeout)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            raise TimeoutError(f"not ended after {timeout} s: {self.printed}")
        assert self._process.exitcode is not None
        return self._process.exitcode


def _command(
    folder: Path, arguments: tuple[str, ...], output: Path, environment: dict[str, str]
) -> None:
    _adopt(environment)
    os.chdir(folder)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run_and_end(arguments, output)
