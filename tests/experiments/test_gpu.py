"""The GPU checks, run dry on the CPU by their own script, as on a GPU."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.experiments.conftest import loaded

ONLY_ON_A_GPU = ("No viable backend", "Could not run")  # what a CPU says of some kernels


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return loaded("gpu/run.py")


@pytest.fixture
def patient(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script with limits that a busy processor keeps, too."""
    parts = tuple(replace(part, seconds=600.0) for part in script.PARTS)
    monkeypatch.setattr(script, "PARTS", parts)
    return script


@pytest.fixture(scope="module")
def preparation() -> ModuleType:
    return loaded("gpu/prepare.py")


def errors(found: Any) -> list[str]:
    """Every `error` and `skipped` in what a part has found."""
    if not isinstance(found, dict):
        return []
    own = [str(found[key]) for key in ("error", "skipped") if key in found]
    return own + [text for value in found.values() for text in errors(value)]


def dry(script: ModuleType, folder: Path, *arguments: str) -> dict[str, Any]:
    """What each part has found, after all of them ended as they should."""
    summary = script.main(["--dry", "--seconds=6000", f"--output={folder}", *arguments])
    assert json.loads((folder / "summary.json").read_text()) == summary
    for part in summary:
        log = (folder / f"{part['part']}.log").read_text()
        assert part["ended"] == "finished", f"{part}\n{log[-2000:]}"
    return {p["part"]: json.loads((folder / f"{p['part']}.json").read_text()) for p in summary}


def test_a_step_runs_dry(patient: ModuleType, tmp_path: Path) -> None:
    found = dry(patient, tmp_path, "--parts", "steps_finetune")
    assert list(found) == ["steps_finetune"]
    assert errors(found["steps_finetune"]) == []
    step = found["steps_finetune"]["steps_finetune"]
    assert step["stage"] == "finetune"
    assert step["step_seconds"] > 0


@pytest.mark.nightly
def test_attention_runs_dry(patient: ModuleType, tmp_path: Path) -> None:
    found = dry(patient, tmp_path, "--parts", "attention")
    for text in errors(found["attention"]):
        assert any(known in text for known in ONLY_ON_A_GPU), text
    for name in ("padded, causal, FLASH_ATTENTION", "padded, boolean mask"):
        taken = found["attention"][name]
        tokens = found["attention"]["texts"]["tokens"]
        assert taken["microseconds_a_token"] * tokens == pytest.approx(taken["milliseconds"] * 1e3)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_every_part_runs_dry(patient: ModuleType, tmp_path: Path) -> None:
    found = dry(patient, tmp_path)
    assert list(found) == [part.name for part in patient.PARTS]
    for name, part in found.items():
        wrong = [t for t in errors(part) if not any(known in t for known in ONLY_ON_A_GPU)]
        assert wrong == [], name
    checks = [v for v in found["correctness"].values() if "agrees" in v]
    assert len(checks) == 9
    assert all(check["agrees"] for check in checks)
    assert found["variants"]["lora, float32 base"]["both_us_token"] > 0
    counted = found["counted"]["lora, bf16 base, no input cast"]
    assert counted["backward"]["kb_token"] > counted["forward"]["kb_token"] > 0
    assert set(found["counted"]["reference, bf16"]) == {"forward"}
    assert found["profile"]["tdro, lora"]["slowest"]
    assert found["environment"]["rates"]["memory"] > 0


def test_all_parts_together_take_eight_minutes_at_most(script: ModuleType) -> None:
    assert script.SECONDS <= 480
    assert all(part.seconds < script.SECONDS / 4 for part in script.PARTS)
    modules = {path.stem for path in script.HERE.glob("*.py")}
    assert {part.module for part in script.PARTS} <= modules


@pytest.mark.nightly  # it waits for half a minute
def test_a_part_that_fails_or_hangs_stops_no_other(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured before stays; what is left gets no time when there is none."""
    (tmp_path / "hanging.py").write_text(
        "import time\n"
        "def measure(probe, name):\n"
        "    probe.record('first', 1)\n"
        "    time.sleep(600)\n"
    )
    (tmp_path / "failing.py").write_text("def measure(probe, name):\n    exit(3)\n")
    (tmp_path / "working.py").write_text(
        "def measure(probe, name):\n"
        "    probe.attempt('wrong', lambda: 1 / 0)\n"
        "    probe.attempt('right', lambda: 2)\n"
    )
    limits = {"failing": 60.0, "working": 60.0, "hanging": 30.0, "late": 1.0}
    parts = tuple(script.Part(name, name, seconds) for name, seconds in limits.items())
    monkeypatch.setattr(script, "PARTS", parts)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ended = {p["part"]: p["ended"] for p in script.main(["--dry", f"--output={tmp_path}"])}
    assert ended == {
        "failing": "exit code 3",
        "working": "finished",
        "hanging": "time limit of 30 s",
        "late": "no time left",
    }
    working = json.loads((tmp_path / "working.json").read_text())
    assert working["wrong"]["error"].startswith("ZeroDivisionError: ")
    assert working["right"] == 2
    assert json.loads((tmp_path / "hanging.json").read_text()) == {"first": 1}


def test_a_large_file_travels_in_two_halves(preparation: ModuleType, tmp_path: Path) -> None:
    file, content = tmp_path / "model.whl", b"0123456789"
    digest = hashlib.sha256(content).hexdigest()
    file.write_bytes(content)
    assert preparation.joined(file, digest) == content
    preparation.split(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.whl.0", "model.whl.1"]
    assert preparation.joined(file, digest) == content
    (tmp_path / "model.whl.1").write_bytes(b"56780")
    with pytest.raises(ValueError, match="SHA-256 is"):
        preparation.joined(file, digest)


def test_halves_are_under_the_limit(
    preparation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "LARGEST", 5)
    (tmp_path / "model.whl").write_bytes(b"0123456789")
    with pytest.raises(ValueError, match="two halves must be under 5"):
        preparation.split(tmp_path / "model.whl")
