"""Rows that cannot be used: all of them told at once, or left out with a list of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.data.domains import load_domains
from tdro_lightning.data.jsonl import read_rows
from tdro_lightning.errors import DataError
from tests.fixtures.commands import Command
from tests.made_up import tiny_model, write_domain_option, write_domains


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three domains of 40 rows; six rows of `hard` and none of the others are faulty."""
    write_domain_option(tmp_path, write_domains(tmp_path / "rows"))
    path = tmp_path / "rows" / "hard.jsonl"
    good = path.read_text().splitlines()
    content = [json.loads(line) for line in good]
    content[5]["query"] = " "
    content[6]["query_id"] = "hard-0"
    content[7]["negative_passages"] = []
    content[8]["source"] = "wiki"
    content[8]["negative_passages"][0]["rank"] = 3
    positive = content[9]["positive_passages"][0]["text"]
    content[9]["negative_passages"] = [{"text": f" {positive}"}, {"text": "other"}]
    content[10] = {**content[11], "query_id": "again", "query": content[11]["query"].upper()}
    text = [json.dumps(row) for row in content]
    text[2] = "{broken"
    text[3] = '{"query": "a", "query": "b"}'
    easy = json.loads((tmp_path / "rows" / "easy.jsonl").read_text().splitlines()[0])
    text.append(json.dumps({**easy, "query_id": "from easy"}))
    path.write_bytes("\n".join(text).encode() + b"\n" + b'{"query": "\xff"}\n')
    return tmp_path


GIVEN = ("--config-dir=conf", "domains=made", "run_dir=run", "data.negatives=7")
FAULTS = [
    (3, "not JSON"),
    (4, "key twice"),
    (6, "empty"),
    (7, "id twice"),
    (8, "no negative"),
    (42, "not UTF-8"),
]


def test_all_faults_are_told_at_once(command: Command, folder: Path) -> None:
    ended = command("+experiment=validate")
    assert ended.code == 3
    assert ended.err.startswith("error: 6 faults in the training data; ")
    for number, _ in FAULTS:
        assert f"rows/hard.jsonl:{number}: " in ended.err
    assert len(ended.err.splitlines()) == 7
    quarantine = lines_of(folder / "run/quarantine.jsonl")
    assert [(row["line"], row["kind"]) for row in quarantine] == FAULTS
    assert {row["domain"] for row in quarantine} == {"hard"}
    found = json.loads((folder / "run/validation.json").read_text())
    assert [found["easy"][key] for key in ("lines", "usable", "faults")] == [40, 40, {}]
    hard = found["hard"]
    assert (hard["lines"], hard["usable"]) == (42, 36)
    assert hard["faults"] == {kind: 1 for _, kind in FAULTS}
    assert (hard["few_negatives"], hard["false_negatives"]) == (1, 1)
    assert (hard["twins"], hard["elsewhere"]) == (1, 1)
    assert hard["unread"] == {"source": 1, "negative_passages[].rank": 1}
    assert "| hard | 42 | 36 |" in (folder / "run/validation.md").read_text()
    assert "negative_passages[].rank, source" in " ".join(ended.out.split())
    assert json.loads((folder / "run/status.json").read_text())["exit_code"] == 3


def test_what_training_would_skip_passes(command: Command, folder: Path) -> None:
    assert command("+experiment=validate", "data.on_bad_row=skip").code == 0
    ended = command("+experiment=validate", "data.on_bad_row=skip", "data.max_bad_rows=5")
    assert ended.code == 3
    ended = command("+experiment=validate", "domains.only=[easy,middle]")
    assert ended.code == 0, ended.err
    assert not (folder / "run/quarantine.jsonl").exists()


def test_files_that_cannot_be_read_do_not_hide_the_others(command: Command, folder: Path) -> None:
    (folder / "rows/easy.jsonl").unlink()
    (folder / "rows/middle.jsonl").write_bytes(b"")
    ended = command("+experiment=validate")
    assert ended.code == 3
    assert "domain easy: rows/easy.jsonl: no such file" in ended.err
    assert "domain middle: rows/middle.jsonl: no rows in it" in ended.err
    assert "rows/hard.jsonl:3: " in ended.err


def test_training_leaves_bad_rows_out_and_lists_them(command: Command, folder: Path) -> None:
    tiny_model(folder / "model")
    tiny_model(folder / "reference", seed=1)
    small = (
        "model.path=model", "module.reference=reference", "model.lora=null", "data.batch_size=6",
        "data.query_tokens=40", "data.passage_tokens=16", "data.workers=0", "trainer.steps=2",
        "trainer.precision=32-true", "logger.wandb=disabled",
    )  # fmt: skip
    ended = command("+experiment=tdro_qwen05b", *small)
    assert ended.code == 3
    assert ended.err.startswith("error: rows/hard.jsonl:3: not valid JSON")
    for again in range(2):  # from the file, then from the cache
        ended = command(
            "+experiment=tdro_qwen05b", *small, "data.on_bad_row=skip", "trainer.resume=never"
        )
        assert ended.code == 0, ended.err
        assert "6 rows cannot be used and are skipped: run/quarantine.jsonl" in ended.out, again
        listed = lines_of(folder / "run/quarantine.jsonl")
        assert [(row["line"], row["kind"]) for row in listed] == FAULTS
        assert {row["place"] for row in listed} == {"rows/hard.jsonl"}
        usage = json.loads((folder / "run/data_usage.json").read_text())
        assert {name: entry["rows"] for name, entry in usage.items()} == {
            "easy": 40, "middle": 40, "hard": 36,
        }  # fmt: skip
    ended = command(
        "+experiment=tdro_qwen05b", *small, "data.on_bad_row=skip", "data.max_bad_rows=5"
    )
    assert ended.code == 3
    assert ended.err.startswith(
        "error: domain hard: 6 of 42 rows cannot be used, and data.max_bad_rows=5 may be skipped; "
        "the first is rows/hard.jsonl:3: not valid JSON"
    )


def test_the_rows_that_are_left_are_as_they_were(folder: Path) -> None:
    """Byte for byte, whatever stands beside them."""
    path = folder / "rows" / "hard.jsonl"
    entry = {"file": "hard.jsonl", "prompts": [], "symmetric": False}
    place = {"root": str(folder / "rows"), "hub": None, "only": None}
    (domain,) = load_domains({"hard": entry}, **place, skip=True)
    bad = {number for number, kind in FAULTS if kind != "no negative"}
    good = [line for i, line in enumerate(path.read_bytes().splitlines(), 1) if i not in bad]
    (folder / "good.jsonl").write_bytes(b"\n".join(good) + b"\n")
    expected = [row["query"] for _, row in read_rows(folder / "good.jsonl")]
    assert [row["query"] for row in domain.table] == expected
    assert [row["line"] for row in domain.table] == [n for n in range(1, 43) if n not in bad]
    assert all(len(row["positive_passages"]) == 1 for row in domain.table)


def test_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n{}\n")
    entry = {"file": "a.jsonl", "prompts": [], "symmetric": False}
    (domain,) = load_domains({"a": entry}, root=str(tmp_path), hub=None, only=None, skip=True)
    with pytest.raises(DataError, match=r"domain a: 2 of 2 rows cannot be used, .*a\.jsonl:1: "):
        domain.require_few_skipped(100)
