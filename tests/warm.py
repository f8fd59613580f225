"""Processes of a run as copies of one that has imported everything, so that each starts at once.

`python -m tests.warm` reads orders as lines of JSON and answers each with one: `start` (the command
line of a process, its environment, folder and file for its output) with its number, `wait` (its
number) with its exit code and the moment of its end.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import tdro_lightning.assembly.fit  # noqa: F401
import tdro_lightning.cli  # noqa: F401
from experiments.faults.kill_loop import FAILED, run_and_end
from tests import faulty

__all__ = ["FAILED", "Warm"]


class Warm:
    """The process that makes the copies, from outside; a context manager.

    Args:
        folder: in which they run.
    """

    def __init__(self, folder: Path) -> None:
        root = str(Path(__file__).parents[1])
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> "Warm":
        return self

    def __exit__(self, *args: Any) -> None:
        self.process.kill()
        self.process.wait()

    def start(self, arguments: list[str], output: str, **environment: str) -> int:
        """Start a process; its number."""
        return int(
            self._ask(
                start=arguments,
                environment=environment,
                folder=str(self.folder),
                output=str(self.folder / output),
            )["process"]
        )

    def wait(self, process: int) -> tuple[int, float]:
        """The exit code of a process, and when it ended, by `time.monotonic`."""
        answer = self._ask(wait=process)
        return int(answer["code"]), float(answer["ended"])

    def _ask(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(order), file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


def serve() -> None:
    """Do what the lines of stdin say."""
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            process = os.fork()
            if process == 0:
                _run(order)
            answer: dict[str, Any] = {"process": process}
        else:
            _, status = os.waitpid(order["wait"], 0)
            code = os.waitstatus_to_exitcode(status)
            answer = {"code": code, "ended": time.monotonic()}
        print(json.dumps(answer), flush=True)


def _run(order: dict[str, Any]) -> NoReturn:
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    faulty.install()
    run_and_end(order["start"], Path(order["output"]))


if __name__ == "__main__":
    serve()
