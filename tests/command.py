"""The command line in this process: `python -m tdro_lightning ...` without its start-up time."""

import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from tdro_lightning.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


def run(capfd: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> Ended:
    """Run a command in a folder."""
    GlobalHydra.instance().clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["tdro_lightning", *arguments])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    captured = capfd.readouterr()
    return Ended(code, captured.out, captured.err)


def run_code(folder: Path, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, in a folder."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def assert_one_message(ended: Ended, pattern: str) -> None:
    """The command has said what is wrong, and that alone."""
    assert re.search(pattern, ended.err), ended.err
    assert "Traceback" not in ended.err
    assert ended.err.startswith("error: ")
