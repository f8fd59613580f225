"""Every reader of judgements decides alike, and nothing ends the process."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from tdro_lightning.data.beir_files import beir, beir_files
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.sets.beir import beir_questions
from tdro_lightning.evaluation.sets.hub_copy import hub_questions, hub_rows
from tdro_lightning.evaluation.sets.miracl import miracl_questions
from tests.evaluation import hub_copies
from tests.evaluation.hub_copies import (
    README,
    write_beir,
    write_hub_lines,
    write_hub_tables,
    write_lines,
    write_miracl,
    write_mkqa,
)
from tests.fixtures.evaluation import without

Pairs = list[tuple[Any, Any, Any]]
DOCUMENT = {"_id": "d", "title": "", "text": "x"}
QUERIES = [{"_id": "q", "text": "x"}, {"_id": "r", "text": "y"}]
HEADER = "query-id\tcorpus-id\tscore\n"


def tabbed(judged: Pairs, middle: str = "\t") -> str:
    return "".join(f"{q}{middle}{d}\t{g}\n" for q, d, g in judged)


def by_evaluation(folder: Path, judged: Pairs) -> dict[tuple[str, str], int]:
    write_lines(folder / "queries.jsonl", QUERIES)
    (folder / "qrels").mkdir()
    (folder / "qrels/test.tsv").write_text(HEADER + tabbed(judged))
    return {(j.query, j.document): j.grade for j in beir_questions(folder, "test").judgements}


def by_import(folder: Path, judged: Pairs) -> dict[tuple[str, str], int]:
    """As 0 and 1: training rows have positives and negatives only."""
    write_lines(folder / "corpus.jsonl", [{"_id": d, "text": "x"} for d in ("d", "e", "f")])
    write_lines(folder / "queries.jsonl", QUERIES)
    (folder / "qrels").mkdir()
    (folder / "qrels/test.tsv").write_text(HEADER + tabbed(judged))
    return {
        (fields["query_id"], passage["docid"]): grade
        for _, fields in beir(beir_files(folder, "test"))
        for grade, part in enumerate(("negative_passages", "positive_passages"))
        for passage in fields[part]
    }


def by_miracl(folder: Path, judged: Pairs) -> dict[tuple[str, str], int]:
    write_miracl(folder, "yo")
    name = "miracl-v1.0-yo-dev.tsv"
    found = folder / "miracl/miracl-v1.0-yo"
    (found / f"topics/topics.{name}").write_text("q\tx\nr\ty\n")
    (found / f"qrels/qrels.{name}").write_text(tabbed(judged, "\tQ0\t"))
    questions = miracl_questions(found, "yo", "dev")
    return {(j.query, j.document): j.grade for j in questions.judgements}


def by_hub_lines(folder: Path, judged: Pairs) -> dict[tuple[str, str], int]:
    write_lines(folder / "qrels/test.jsonl", as_objects(judged))
    write_lines(folder / "queries.jsonl", QUERIES)
    write_lines(folder / "corpus.jsonl", [DOCUMENT])
    return by_hub(folder, ".jsonl")


def by_hub_tables(folder: Path, judged: Pairs) -> dict[tuple[str, str], int]:
    tables = {"qrels/test": as_objects(judged), "queries": QUERIES, "corpus": [DOCUMENT]}
    (folder / "qrels").mkdir()
    for name, rows in tables.items():
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{name}.parquet")
    return by_hub(folder, ".parquet")


def by_hub(folder: Path, suffix: str) -> dict[tuple[str, str], int]:
    (folder / "README.md").write_text(README.format(split="test", suffix=suffix))
    return {(j.query, j.document): j.grade for j in hub_questions(folder, "test").judgements}


def as_objects(judged: Pairs) -> list[dict[str, Any]]:
    return [{"query-id": q, "corpus-id": d, "score": g} for q, d, g in judged]


READERS: list[Callable[[Path, Pairs], dict[tuple[str, str], int]]] = [
    by_evaluation, by_import, by_miracl, by_hub_lines, by_hub_tables
]  # fmt: skip
GRADES: list[tuple[Any, int | None]] = [
    (0, 0), (1, 1), (2.0, 2), (100, 100), (-1, 0), (-3, 0), (-2_000_000_000, 0),
    (101, None), (2_000_000_000, None), (int("9" * 18), None), (0.5, None), (-0.5, None),
    (float("nan"), None), (float("inf"), None), ("yes", None), ("", None), (True, None),
]  # fmt: skip


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize(("given", "grade"), GRADES, ids=lambda value: repr(value))
def test_a_grade_is_read_alike_by_all(
    tmp_path: Path, read: Callable[..., Any], given: Any, grade: int | None
) -> None:
    if grade is None:
        with pytest.raises(DataError) as caught:
            read(tmp_path, [("q", "d", given)])
        refused = (
            r": the score must be a whole number up to 100, is |(NaN|Infinity) is not a JSON num"
        )
        assert re.search(refused, str(caught.value))
    else:
        found = read(tmp_path, [("q", "d", given)])
        assert found == {("q", "d"): min(grade, 1) if read is by_import else grade}


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_contradictions_repetitions_and_ids_are_read_alike(
    tmp_path: Path, read: Callable[..., Any]
) -> None:
    for name in "abcd":
        (tmp_path / name).mkdir()
    twice = [("q", "d", 1), ("r", "e", 0), ("q", "d", 1), ("r", "e", -1)]
    assert read(tmp_path / "a", twice) == {("q", "d"): 1, ("r", "e"): 0}
    with pytest.raises(DataError, match="'q' and document 'd' are judged before, with grade 1 and"):
        read(tmp_path / "b", [("q", "d", 1), ("r", "e", 0), ("q", "d", 0)])
    with pytest.raises(
        DataError, match=r"query '0' is not among|queries are missing|no queries in"
    ):
        read(tmp_path / "c", [("0", "d", 1)])
    with pytest.raises(DataError, match=r"id is empty|`corpus-id` is empty"):
        read(tmp_path / "d", [("q", "", 1)])


IDS = ["007", 5, "0", "2020-01-01", "1.0", "NA", "true", 0]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".csv", ".parquet"])
def test_the_ids_of_a_copy_of_the_hub_s_are_not_cast(tmp_path: Path, suffix: str) -> None:
    """`datasets` would make "007" beside 5, or in a table of text, 7."""
    given = IDS if "json" in suffix else [one for one in IDS if isinstance(one, str)]
    objects = [{"_id": one, "text": f"text {i}"} for i, one in enumerate(given)]
    path = tmp_path / f"queries{suffix}"
    if suffix == ".parquet":
        datasets.Dataset.from_list(objects).to_parquet(path)
    elif suffix == ".csv":
        path.write_text("_id,text\n" + "".join(f"{o['_id']},{o['text']}\n" for o in objects))
    else:
        write_lines(path, objects)
    (tmp_path / "qrels").mkdir()
    for other in ("corpus", "qrels/test"):
        shutil.copy(path, tmp_path / f"{other}{suffix}")
    (tmp_path / "README.md").write_text(README.format(split="test", suffix=suffix))
    assert [row for _, row in hub_rows(tmp_path, "queries")] == objects


@pytest.mark.parametrize("write", [write_beir, write_hub_lines, write_hub_tables, write_mkqa])
def test_a_query_that_cannot_be_seen_is_refused(
    evaluated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    hidden = "\u200b\u00ad\u3164"
    monkeypatch.setitem(hub_copies.QUERIES[1], "text", hidden)
    first = (*hub_copies.MKQA[0][:2], hidden, hidden)
    monkeypatch.setattr(hub_copies, "MKQA", [first, *hub_copies.MKQA[1:]])
    if write is write_mkqa:
        write(tmp_path / "data")
        ended = evaluated("mkqa", "benchmark.root=data", *without("mkqa", "mkqa-de"))
    else:
        write(tmp_path / "data/fiqa")
        ended = evaluated(*FIQA)
    assert ended.code == 3
    assert re.search("`?text`? of query '(q2|11)' is empty", ended.err)


def write_fiqa(folder: Path, judged: str) -> None:
    write_beir(folder / "data/fiqa")
    (folder / "data/fiqa/qrels/test.tsv").write_text(HEADER + judged)


FIQA = ("beir_fast", "benchmark.root=data", *without("beir_fast", "fiqa"))


@pytest.mark.parametrize("judged", ["q1\td1\t-3\n", "q1\td1\t0\nq2\td2\t0\n", "q3\td1\t-1\n"])
def test_a_set_without_anything_relevant_is_refused_by_name(
    evaluated, tmp_path: Path, judged: str
) -> None:
    write_fiqa(tmp_path, judged)
    ended = evaluated(*FIQA)
    assert ended.code == 3
    count = judged.count("\n")
    assert f"evaluation set 'fiqa': none of its {count} judgements has a grade of 1" in ended.err
    assert "data/fiqa" in ended.err
    assert not (tmp_path / "run/metrics.json").exists()


def test_a_set_whose_grades_are_all_below_its_relevant_one_is_refused(
    evaluated, tmp_path: Path
) -> None:
    write_fiqa(tmp_path, "q1\td1\t1\n")
    ended = evaluated(*FIQA, "+benchmark.sets.fiqa.relevant=2")
    assert ended.code == 3
    assert "none of its 1 judgements has a grade of 2 or more" in ended.err


def test_a_negative_judgement_beside_others_changes_nothing(evaluated, tmp_path: Path) -> None:
    found = []
    for grade in ("0", "-3"):
        write_fiqa(tmp_path, f"q1\td4\t{grade}\nq1\td1\t1\nq2\td2\t{grade}\n")
        ended = evaluated(*FIQA)
        assert ended.code == 0, ended.err
        found.append((tmp_path / "run/per_query/bm25/fiqa.json").read_text())
    assert found[0] == found[1]
    assert json.loads(found[0])["q2"]["ndcg@10"] == 0


@pytest.mark.parametrize("grade", ["9" * 19, "2000000000", "101"])
def test_a_huge_grade_ends_with_file_and_line(evaluated, tmp_path: Path, grade: str) -> None:
    write_fiqa(tmp_path, f"q1\td1\t{grade}\n")
    ended = evaluated(*FIQA)
    assert ended.code == 3
    assert "qrels/test.tsv:2: the score must be a whole number up to 100" in ended.err
