import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.benchmark import RetrievalSet, build_retrieval_set
from tdro_lightning.evaluation.sets.beir import beir_corpus, beir_questions

DOCUMENTS = [
    {"_id": "d1", "title": "Cats", "text": "They sleep."},
    {"_id": "d2", "title": "", "text": "Dogs bark."},
    {"_id": "d3", "title": "Only a title", "text": ""},
    {"_id": "d4", "text": "No title"},
]
QUERIES = [
    {"_id": "q2", "text": "who barks", "metadata": {"answers": ["dogs", "a dog"]}},
    {"_id": "q1", "text": "who sleeps", "metadata": {"answers": ["cats"], "lang": "en"}},
    {"_id": "q3", "text": "not judged", "metadata": {}},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td2\t1\nq1\td2\t0\n"


def write_set(
    folder: Path,
    documents: list[dict[str, Any]] = DOCUMENTS,
    queries: list[dict[str, Any]] = QUERIES,
    qrels: str = QRELS,
) -> Path:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, objects in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(value) + "\n" for value in objects)
        (folder / f"{name}.jsonl").write_text(lines)
    (folder / "qrels/test.tsv").write_text(qrels)
    return folder


def load_set(
    name: str, folder: Path, split: str = "test", prompt: str | None = None
) -> RetrievalSet:
    return build_retrieval_set(
        name, beir_corpus(folder), beir_questions(folder, split), prompt=prompt
    )


def test_reads_a_set(tmp_path: Path) -> None:
    one = load_set("tiny", write_set(tmp_path), "test", "Find it")
    assert (one.name, one.prompt) == ("tiny", "Find it")
    assert tuple(one.document_ids) == ("d1", "d2", "d3", "d4")
    assert tuple(one.documents) == ("Cats They sleep.", "Dogs bark.", "Only a title", "No title")
    assert one.query_ids == ("q2", "q1")
    assert one.queries == ("who barks", "who sleeps")
    assert one.qrels == {"q2": {"d2": 1}, "q1": {"d1": 2, "d2": 0}}
    assert one.answers == {"q2": ("dogs", "a dog"), "q1": ("cats",)}


def test_gzipped_files_read_the_same(tmp_path: Path) -> None:
    plain = load_set("tiny", write_set(tmp_path / "a"))
    folder = write_set(tmp_path / "b", qrels=QRELS.replace("\n", "\r\n"))
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    zipped = load_set("tiny", folder)
    assert [*zipped.document_ids] == [*plain.document_ids]
    assert [*zipped.documents] == [*plain.documents]
    assert replace(zipped, documents=(), document_ids=()) == replace(
        plain, documents=(), document_ids=()
    )


def test_sets_without_answers(tmp_path: Path) -> None:
    queries = [{"_id": q["_id"], "text": q["text"]} for q in QUERIES]
    assert load_set("tiny", write_set(tmp_path, queries=queries)).answers is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": []}, r"corpus\.jsonl: no documents in it"),
        ({"documents": DOCUMENTS * 2}, r"corpus\.jsonl:5: document 'd1' is a duplicate"),
        (
            {"documents": [{"_id": "d1", "title": " ", "text": ""}]},
            r"corpus\.jsonl: document 'd1' has neither title nor text",
        ),
        ({"documents": [{"_id": 7.5, "text": "x"}]}, r"corpus\.jsonl:1: `_id` must be a string"),
        ({"documents": [{"_id": "d1"}]}, r"corpus\.jsonl:1: `text` must be a string, is None"),
        (
            {"documents": [{"_id": "d1", "text": "\ud800"}]},
            r"corpus\.jsonl:1: `text` holds a lone surrogate",
        ),
        ({"queries": []}, r"queries\.jsonl: no queries in it"),
        ({"queries": [*QUERIES, QUERIES[0]]}, r"queries\.jsonl:4: `_id` 'q2' is a duplicate"),
        ({"queries": [{"_id": "", "text": "x"}]}, r"queries\.jsonl:1: `_id` is empty"),
        ({"queries": [{"_id": "q1", "text": " "}]}, r"queries\.jsonl:1: `text` of query 'q1'"),
        (
            {"queries": [{"_id": "q1", "text": "x", "metadata": 3}]},
            r"queries\.jsonl:1: `metadata` must be an object, is 3",
        ),
        (
            {"queries": [{"_id": "q1", "text": "x", "metadata": {"answers": "cats"}}]},
            r"queries\.jsonl:1: `metadata\.answers` must be a list",
        ),
        (
            {"queries": [{"_id": "q1", "text": "x", "metadata": {"answers": [""]}}]},
            r"queries\.jsonl:1: `metadata\.answers` holds ''",
        ),
        (
            {"queries": [QUERIES[0], {"_id": "q1", "text": "x"}]},
            r"queries\.jsonl: 1 of 2 judged queries have .*, query 'q1' has none",
        ),
        ({"qrels": ""}, r"test\.tsv: no judgements in it"),
        ({"qrels": "query-id\tcorpus-id\tscore\n"}, r"test\.tsv: no judgements in it"),
        ({"qrels": "q1\td1\t1\n"}, r"test\.tsv:1: the header must be .*, is 'q1\\td1\\t1'"),
        ({"qrels": QRELS + "q1 d3 1\n"}, r"test\.tsv:5: expected 3 columns divided by tabs"),
        ({"qrels": QRELS + "q9\td1\t1\n"}, r"test\.tsv:5: query 'q9' is not among the queries"),
        ({"qrels": QRELS + "q1\td9\t1\n"}, r"test\.tsv:5: document 'd9' is not in the corpus"),
        (
            {"qrels": QRELS + "q1\td1\t1\n"},
            r"test\.tsv:5: query 'q1' and document 'd1' .* with grade 2 and not 1",
        ),
        ({"qrels": QRELS + "q1\td3\t0.5\n"}, r"test\.tsv:5: the score must be a whole number"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_set(tmp_path, **change)
    with pytest.raises(DataError, match=message):
        load_set("tiny", tmp_path)


def test_a_few_faults_of_published_sets_are_let_pass(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    documents = [{"_id": f"d{i}", "title": "", "text": "x" if i else ""} for i in range(200)]
    judged = [f"q1\td{i}\t1\n" for i in range(100, 250)]
    qrels = "query-id\tcorpus-id\tscore\n" + "".join(judged[:101])
    write_set(tmp_path, documents, QUERIES[1:2], qrels + judged[0])
    one = load_set("made", tmp_path)
    assert one.documents[0] == ""
    assert len(one.document_ids) == 200
    # As in the field, a relevant document that is not there counts as not found.
    assert len(one.qrels["q1"]) == 101
    assert "corpus.jsonl: 1 documents without title and text" in caplog.text
    assert "made: 1 relevant documents are not in the corpus" in caplog.text
    write_set(tmp_path, documents, QUERIES[1:2], qrels + judged[101])
    with pytest.raises(DataError, match=r"tsv:102: document 'd200' .* like 2 of 102 relevant ones"):
        load_set("made", tmp_path)


def test_missing_and_doubled_files(tmp_path: Path) -> None:
    write_set(tmp_path)
    with pytest.raises(DataError, match=r"dev\.tsv: no such file, .* the folder holds test\.tsv"):
        load_set("tiny", tmp_path, "dev")
    (tmp_path / "corpus.jsonl.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"corpus\.jsonl and corpus\.jsonl\.gz both exist"):
        load_set("tiny", tmp_path)
    with pytest.raises(DataError, match=r"corpus\.jsonl: no such file"):
        load_set("tiny", tmp_path / "nowhere")


def test_damaged_qrels(tmp_path: Path) -> None:
    path = write_set(tmp_path) / "qrels/test.tsv"
    path.unlink()
    whole = gzip.compress(QRELS.encode())
    (tmp_path / "qrels/test.tsv.gz").write_bytes(whole[:-12])
    with pytest.raises(DataError, match=r"test\.tsv\.gz: damaged gzip file"):
        load_set("tiny", tmp_path)
    (tmp_path / "qrels/test.tsv.gz").unlink()
    path.write_bytes(b"query-id\tcorpus-id\tscore\n\xff\n")
    with pytest.raises(DataError, match=r"test\.tsv:2: not UTF-8"):
        load_set("tiny", tmp_path)
