"""Finished work is taken up only as it was written, and where it was made from the same."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.records.receipts import finished_result, read_receipt, write_receipt
from tests.damage import damages

MADE_FROM: dict[str, Any] = {"rows": "1f", "settings": {"k": (1, 2), "margin": 0.1}, "none": None}
RESULT = {"rows": 3, "kept": 2, "share": 0.5, "other": 0.25, "name": "a", "kind": "b"}


def made(folder: Path) -> Path:
    (folder / "out").mkdir(parents=True)
    for name, content in {
        "out/a.bin": bytes(range(256)),
        "out/b.json": b'{"x": 1, "y": 2}',
    }.items():
        (folder / name).write_bytes(content)
    receipt = folder / "receipts" / "one.json"
    write_receipt(receipt, MADE_FROM, [folder / "out/a.bin", folder / "out/b.json"], RESULT)
    return receipt


def test_the_result_comes_back_also_elsewhere(tmp_path: Path) -> None:
    receipt = made(tmp_path / "here")
    assert read_receipt(receipt, MADE_FROM) == finished_result(receipt, MADE_FROM) == RESULT
    there = Path(shutil.move(tmp_path / "here", tmp_path / "there"))
    assert finished_result(there / "receipts/one.json", MADE_FROM) == RESULT


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"rows": "2e"}, "rows"),
        ({"none": 0}, "none"),
        ({"settings": {"k": [2, 1], "margin": 0.1}}, "settings"),
        ({"new": None, "rows": "2e"}, "rows, new"),
    ],
)
def test_other_work_is_not_taken_up(tmp_path: Path, changed: dict, named: str, caplog) -> None:
    receipt = made(tmp_path)
    assert finished_result(receipt, MADE_FROM | changed) is None
    assert caplog.messages == [f"{receipt}: was made with another {named}; made again"]
    write_receipt(receipt, MADE_FROM | {"new": 1}, [])
    with pytest.raises(DataError, match="was made with another new$"):
        read_receipt(receipt, MADE_FROM)


def test_work_that_was_never_done_says_nothing(tmp_path: Path, caplog) -> None:
    assert finished_result(tmp_path / "none.json", MADE_FROM) is None
    assert not caplog.messages


@pytest.mark.parametrize("name", ["receipts/one.json", "out/a.bin", "out/b.json"])
def test_no_damage_passes(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    receipt = made(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    for what, damaged in damages(path, b"{}"):
        caplog.clear()
        path.write_bytes(damaged)
        assert finished_result(receipt, MADE_FROM) is None, what
        (message,) = caplog.messages
        assert message.startswith(f"{path}: "), what
        assert message.endswith("made again"), what
    path.write_bytes(whole)
    assert finished_result(receipt, MADE_FROM) == RESULT
    path.unlink()
    if name.startswith("out"):
        with pytest.raises(DataError, match="no such file"):
            read_receipt(receipt, MADE_FROM)
    assert finished_result(receipt, MADE_FROM) is None
