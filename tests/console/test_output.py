"""What is shown during a run, in processes of their own: on pipes, terminals and neither."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.made_up import tiny_model, write_domain_option, write_domains

ROOT = Path(__file__).parents[2]
SMALL = (
    "data.batch_size=6 data.query_tokens=40 data.passage_tokens=16 data.workers=0 "
    "model.lora=null model.path=model trainer.steps=3 trainer.precision=32-true"
)
SLOW = """
import logging, sys, time
from tdro_lightning.console import output as watch
logging.getLogger("tdro_lightning").setLevel(logging.INFO)
watch.QUIET = 0.5
watch.accept_any_output()
with watch.live_output(), watch.run_title("demo/mine"):
    watch.tell("first")
    logging.getLogger("tdro_lightning.mining.miner").info("%d of 9 queries", 3)
    time.sleep(1.2)
    watch.tell("\u0394 caf\xe9")
    time.sleep(0.3)
    print(watch.is_live(), file=sys.stderr)
watch.flush_output()
"""


def script(**variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-c", SLOW], capture_output=True, text=True, env=environment, timeout=60
    )


def on_terminal(
    command: list[str], seconds: float, cwd: Path | None = None, **variables: str
) -> tuple[int, str]:
    """Exit code and everything that a command writes to a terminal of 80 columns, 24 lines."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env={**environment, **variables},
    )
    os.close(theirs)
    written, until = b"", time.monotonic() + seconds
    while time.monotonic() < until:
        if not select.select([ours], [], [], 0.2)[0]:
            continue
        try:
            written += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    os.close(ours)
    return process.wait(timeout=20), written.decode(errors="replace")


def test_a_silence_is_broken_by_what_is_being_done() -> None:
    ended = script()
    lines = ended.stdout.splitlines()
    assert lines[0] == "first"
    assert lines[-1] == "Δ café"
    assert 1 <= len(lines[1:-1]) <= 2
    for line in lines[1:-1]:
        assert re.fullmatch(r"demo/mine: 3 of 9 queries, [01] s", line)
    assert ended.stderr == "False\n"


def test_an_encoding_that_lacks_a_letter_shows_a_question_mark() -> None:
    ended = script(PYTHONIOENCODING="ascii")
    assert ended.stdout.splitlines()[-1] == "? caf?"
    assert ended.returncode == 0


@pytest.mark.parametrize("terminal", ["xterm-256color", "dumb"])
def test_only_a_terminal_that_can_be_drawn_on_gets_the_live_view(terminal: str) -> None:
    code, text = on_terminal([sys.executable, "-c", SLOW], 30, TERM=terminal)
    assert code == 0
    assert ("True" in text) == (terminal != "dumb")
    assert ("\x1b[" in text) == (terminal != "dumb")
    assert "demo/mine: 3 of 9 queries, " in text
    if terminal != "dumb":
        assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor comes back"


def test_a_command_continues_without_a_reader(tmp_path: Path) -> None:
    """As in `... | head -1`: the run is finished, and its files are there."""
    tiny_model(tmp_path / "model")
    write_domain_option(tmp_path, write_domains(tmp_path / "rows"))
    process = subprocess.Popen(
        [sys.executable, "-m", "tdro_lightning", "--config-dir=conf", "domains=made",
         *SMALL.split(), "+experiment=finetune_uniform", "run_dir=run", "logger.wandb=disabled"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    process.stdout.close()
    assert process.wait(timeout=120) == 0, process.stderr.read()
    assert process.stderr.read() == ""
    assert (tmp_path / "run" / "encoder" / "model.safetensors").is_file()


WRONG = [f"benchmark.sets.set{i}.relevant=0" for i in range(40)]


@pytest.mark.parametrize(
    ("given", "last"),
    [
        (["+experiment=evaluate", "benchmark=beir_fast", *(f"+{key}" for key in WRONG)], "more"),
        (["+experiment=finetune_uniform", "stage=plan", "plan.mfu=0.3", "module.temperature=0"],
         "module.temperature=0.0 must be above 0 and at most 1,000"),
        (["+experiment=tdro_qwen5b"], "--help"),
        (["trainer.steps=3"], "error: no experiment is named; add +experiment=NAME"),
        (["--config-dir=conf", "+experiment=finetune_top70", "domains=made", "run_dir=run",
          "transfer.weights=nowhere.json"], "nowhere.json"),
    ],
)  # fmt: skip
def test_an_error_is_the_last_thing_on_a_terminal_and_fits(
    given: list[str], last: str, tmp_path: Path
) -> None:
    write_domain_option(tmp_path, write_domains(tmp_path / "rows"))
    command = [sys.executable, "-m", "tdro_lightning", *given]
    code, text = on_terminal(command, 100, cwd=tmp_path, TERM="xterm-256color")
    assert code in (2, 3), text
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r\n", "\n").rstrip("\n")
    lines = [line.split("\r")[-1] for line in seen.split("\n")]
    (first,) = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    assert len(lines) - first <= 23
    assert max(map(len, lines[first:])) <= 80
    assert last in " ".join(" ".join(lines[first:]).split())


def test_no_escape_codes_and_no_load_report_on_a_pipe(tmp_path: Path) -> None:
    """Of a model with a weight too many, which transformers reports in colour."""
    tiny_model(tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    weights["head.weight"] = torch.zeros(2, 2)
    save_file(weights, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    write_domain_option(tmp_path, write_domains(tmp_path / "rows"))
    ended = subprocess.run(
        [sys.executable, "-m", "tdro_lightning", "--config-dir=conf", "domains=made",
         *SMALL.split(), "+experiment=finetune_uniform", "run_dir=run", "logger.wandb=disabled"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "\x1b" not in ended.stdout
    assert "LOAD REPORT" not in ended.stdout
    assert "data.passage_tokens=16 cuts many texts: " in ended.stdout
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert any("data.passage_tokens=16 cuts" in warning for warning in record["warnings"])
