"""Ranks of a run without a launcher, whose parent is a process that a test may kill."""

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from experiments.faults.kill_loop import FAILED, run_and_end
from tests import faulty
from tests.processes import copies

__all__ = ["FAILED", "Warm"]


class Warm:
    """The process that makes copies of itself, from outside; a context manager.

    Args:
        folder: in which they run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._orders, theirs = copies().Pipe()
        self.process = copies().Process(target=serve, args=(theirs, dict(os.environ)))
        self.process.start()
        theirs.close()

    def __enter__(self) -> "Warm":
        return self

    def __exit__(self, *args: Any) -> None:
        self.process.kill()
        self.process.join()

    def start(self, arguments: list[str], output: str, **environment: str) -> int:
        """Start a process; its number."""
        self._orders.send((arguments, environment, self.folder, self.folder / output))
        return int(self._orders.recv())

    def wait(self, process: int) -> tuple[int, float]:
        """The exit code of a process, and when it ended, by `time.monotonic`."""
        self._orders.send(process)
        code, ended = self._orders.recv()
        return code, ended


def serve(orders: Connection, environment: dict[str, str]) -> None:
    """Start a process for an order that describes one, wait for one that is a number."""
    os.environ.update(environment)
    while True:
        try:
            order = orders.recv()
        except EOFError:  # the test run has ended
            return
        if isinstance(order, int):
            _, status = os.waitpid(order, 0)
            orders.send((os.waitstatus_to_exitcode(status), time.monotonic()))
            continue
        process = os.fork()
        if process == 0:
            arguments, own, folder, output = order
            os.chdir(folder)
            os.environ.update(own)
            faulty.install()
            run_and_end(arguments, output)
        orders.send(process)
