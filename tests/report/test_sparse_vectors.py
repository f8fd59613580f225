"""The section on sparse vectors: what it holds, and that no token can do harm in it."""

import re
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.report.collect import collect_runs, read_run
from tdro_lightning.report.page import write_report
from tdro_lightning.report.results import results_by_run
from tdro_lightning.report.sections import sparse_section
from tdro_lightning.report.sparse_vectors import example_tables, vector_tables
from tests.report.folders import metrics, write_run

NONE = {"count": 0, "first": []}
HOSTILE = ("\x1b[31m", "\u202e<script>", "|a|", "**b**", "\x00", "語", "Ġ", " the", "`c`", "é")


def sides(**faulty: dict[str, Any]) -> dict[str, Any]:
    return {
        "texts": 40,
        "mean": 12.25,
        "median": 11.5,
        "max": 1234,
        "empty": NONE,
        "full": NONE,
    } | (faulty)


def vectors(tokens: tuple[str, ...] = ("cat", "dog"), **queries: dict[str, Any]) -> dict[str, Any]:
    top = [{"term": n, "token": token, "weight": 2 - n / 10} for n, token in enumerate(tokens)]
    examples = [
        {"kind": "query", "id": "q1", "text": "which cat", "terms": 7, "top": top},
        {"kind": "document", "id": "d1", "text": "a dog", "terms": 1, "top": top[:1]},
    ]
    return {
        "vocabulary": 30522, "queries": sides(**queries), "documents": sides(),
        "posting_length": 4.56, "flops": 1.234, "dead_terms": 25000, "constant_terms": 3,
        "index_bytes": 1_250_000, "milliseconds_a_query": 0.84, "examples": examples,
    }  # fmt: skip


SCORES = {"nq": {"ndcg@10": 0.5}}


def test_a_row_for_each_encoder_and_set() -> None:
    (sizes,) = vector_tables({"ours": {"nq": vectors(), "fiqa": vectors()}})
    assert [row[1].text for row in sizes.rows] == ["nq", "fiqa"]
    assert [cell.text for cell in sizes.rows[0]] == [
        "ours", "nq", "12.2", "12", "1,234", "12.2", "12", "1,234", "4.6", "1.23",
        "25,000", "3", "30,522", "1.2", "0.8",
    ]  # fmt: skip
    assert len(sizes.columns) == len(sizes.rows[0])


def test_faulty_rows_are_named() -> None:
    empty = {"count": 7, "first": ["a", "b", "c", "d", "e"]}
    tables = vector_tables(
        {"ours": {"nq": vectors(empty=empty, full={"count": 1, "first": ["x"]})}}
    )
    assert [[cell.text for cell in row] for row in tables[1].rows] == [
        ["ours", "nq", "queries", "no term", "7", "17.5 %", "a, b, c, d, e, ..."],
        ["ours", "nq", "queries", "nearly all terms", "1", "2.5 %", "x"],
    ]


def test_top_terms_have_a_column_each() -> None:
    (table,) = example_tables("ours", {"nq": vectors()})
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["query", "q1", "which cat", "7", "cat (0) 2.00", "dog (1) 1.90"],
        ["document", "d1", "a dog", "1", "cat (0) 2.00", "–"],
    ]


def test_the_section_is_there_for_sparse_encoders_only(tmp_path: Path) -> None:
    dense = write_run(tmp_path, "dense", files={"metrics": metrics(ours=SCORES)})
    write_report([dense], tmp_path / "a", "Title")
    assert "Sparse vectors" not in (tmp_path / "a/report.html").read_text()
    files = {"metrics": metrics(ours=SCORES), "sparse_vectors": {"ours": {"nq": vectors()}}}
    history = {"sparsity/terms/queries": [9.0, 4.0], "sparsity/terms/passages": [90.0, 40.0]}
    sparse = write_run(tmp_path, "sparse", files=files, history=history)
    runs = collect_runs([dense, sparse])
    section = sparse_section(results_by_run(runs), runs)
    assert [(block.heading, block.folded) for block in section.blocks] == [
        ("", False),
        ("Top terms of ours (sparse)", True),
    ]
    assert section.blocks[0].figures[0].title == "Active terms of a text over the steps"
    half = write_run(tmp_path, "half", status="failed", files=files)
    assert read_run(half).retrievers == ()


def test_an_encoder_that_two_runs_have_evaluated_has_one_row(tmp_path: Path) -> None:
    (tmp_path / "tuned/encoder").mkdir(parents=True)
    files = {"metrics": metrics(ours=SCORES), "sparse_vectors": {"ours": {"nq": vectors()}}}
    inputs = {"encoder ours": {"path": str(tmp_path / "tuned/encoder"), "sha256": "0f"}}
    for name in ("a", "b"):
        write_run(tmp_path, name, files=files, inputs=inputs)
    runs = collect_runs([tmp_path])
    (block, _) = sparse_section(results_by_run(runs), runs).blocks
    assert len(block.tables[0].rows) == 1


def test_tokens_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    found = vectors(HOSTILE)
    found["examples"][0]["text"] = "<b>\x07\u2066 | new\nline"
    faulty = {"count": 1, "first": ["<q>\x1b"]}
    content = {"ours": {"nq": found, "fiqa": vectors(full=faulty)}}
    scores = SCORES | {"fiqa": SCORES["nq"]}
    files = {"metrics": metrics(ours=scores), "sparse_vectors": content}
    write_report([write_run(tmp_path, "sparse", files=files)], tmp_path / "out", "Title")
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text()
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", text)
        assert "<script>" not in text
        assert "<b>" not in text.partition("Sparse vectors</h2>")[2].partition("lineage")[0]
        for shown in (r"\x00", r"\x1b", r"\u202e", "語 (5)", "the (7)", "é (9)", "Ġ (6)"):
            assert shown in text.replace("\\\\", "\\"), shown
    lines = (tmp_path / "out/report.md").read_text().splitlines()
    (row,) = (line for line in lines if line.startswith("| query | q1 | &lt;b&gt;"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 4 + len(HOSTILE) + 1
    assert r"\*\*b\*\* (3)" in row
    assert r"\`c\` (8)" in row


@pytest.mark.parametrize("key", ["queries", "flops", "examples", "index_bytes"])
def test_a_broken_file_is_refused_by_its_name(tmp_path: Path, key: str) -> None:
    broken = vectors()
    del broken[key]
    for content in (
        {"ours": {"nq": broken}},
        {"ours": {"nq": vectors() | {key: "x"}}},
        {"ours": 3},
    ):
        files = {"metrics": metrics(ours=SCORES), "sparse_vectors": content}
        run = write_run(tmp_path, f"run{len([*tmp_path.iterdir()])}", files=files)
        with pytest.raises(DataError, match=r"sparse_vectors\.json: not what an evaluation of"):
            read_run(run)
