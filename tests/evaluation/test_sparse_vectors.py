"""What is recorded of sparse vectors, against NumPy on whole matrices, and who is warned of."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from tdro_lightning.console.output import collect_warnings
from tdro_lightning.evaluation.benchmark import RetrievalSet
from tdro_lightning.evaluation.evaluate import evaluate
from tdro_lightning.evaluation.sparse_vectors import SHOWN
from tdro_lightning.evaluation.vector_faults import vector_warnings
from tdro_lightning.search.bm25 import BM25Retriever
from tdro_lightning.search.inverted import SparseRetriever
from tests.fixtures.evaluation import in_two_processes
from tests.search.sparse_rows import Rows, names, real

VOCABULARY = 400


def made_set(queries: csr_array, documents: csr_array) -> RetrievalSet:
    """A set whose texts are the numbers of the rows of matrices, and ids something else."""
    count = queries.shape[0]
    return RetrievalSet(
        name="made",
        document_ids=tuple(f"d{row}" for row in names(documents)),
        documents=tuple(names(documents)),
        query_ids=tuple(f"q{row}" for row in names(queries)),
        queries=tuple(names(queries)),
        qrels={f"q{row}": {f"d{row}": 1} for row in range(count)},
        answers=None,
        prompt=None,
    )


def recorded(folder: Path, queries: csr_array, documents: csr_array, **options) -> dict:
    """What an evaluation by an encoder `ours` writes of its vectors."""
    ours = SparseRetriever(Rows(queries), Rows(documents), "rows", shard_texts=16, **options)
    one = made_set(queries, documents)
    evaluate({"bm25": BM25Retriever(), "ours": ours}, {"made": lambda: one}, folder)
    content = json.loads((folder / "sparse_vectors.json").read_text())
    assert list(content) == ["ours"]
    return content["ours"]["made"]


def test_figures_of_a_made_matrix(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    queries, documents = (real(random, n, k, VOCABULARY) for n, k in ((21, 6), (77, 30)))
    found = recorded(tmp_path, queries, documents, block_documents=20)
    q, d = queries.toarray() > 0, documents.toarray() > 0
    for side, active in (("queries", q), ("documents", d)):
        lengths = active.sum(1)
        own = found[side]
        assert own["texts"] == len(active)
        assert own["mean"] == pytest.approx(lengths.mean())
        assert (own["median"], own["max"]) == (np.median(lengths), lengths.max())
        assert own["empty"] == own["full"] == {"count": 0, "first": []}
    assert found["vocabulary"] == VOCABULARY
    assert found["flops"] == pytest.approx((q.mean(0) * d.mean(0)).sum())
    frequency = d.sum(0)
    assert found["posting_length"] == pytest.approx(frequency[frequency > 0].mean())
    assert found["dead_terms"] == (frequency == 0).sum()
    assert found["constant_terms"] == (frequency == 77).sum()
    assert found["index_bytes"] > 8 * d.sum()
    assert 0 < found["milliseconds_a_query"] < 1e4


def test_examples_are_queries_and_what_they_find(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    queries, documents = (real(random, n, k, VOCABULARY) for n, k in ((21, 6), (77, 30)))
    found = recorded(tmp_path, queries, documents, term=lambda term: f"<{term}>")["examples"]
    assert [one["kind"] for one in found] == ["query", "document"] * 5
    assert [one["id"] for one in found[::2]] == ["q0", "q5", "q10", "q15", "q20"]
    products = (queries.astype(float) @ documents.T.astype(float)).toarray()
    best = products.argmax(1)
    assert [one["id"] for one in found[1::2]] == [f"d{best[row]}" for row in range(0, 21, 5)]
    for one in found:
        rows = queries if one["kind"] == "query" else documents
        row = rows[[int(one["id"][1:])]].toarray()[0]
        order = np.argsort(-row, kind="stable")[: min(10, np.count_nonzero(row))]
        assert one["terms"] == np.count_nonzero(row)
        assert [own["term"] for own in one["top"]] == order.tolist()
        assert [own["token"] for own in one["top"]] == [f"<{term}>" for term in order]
        np.testing.assert_allclose([own["weight"] for own in one["top"]], row[order], atol=5e-5)


def test_a_query_that_finds_nothing_stands_alone_and_long_texts_are_cut(tmp_path: Path) -> None:
    def embed(texts: Sequence[str], prompt: str | None = None) -> csr_array:
        return csr_array(np.array([[0.0, len(text)] if "x" in text else [0, 0] for text in texts]))

    long = "x" * 1000
    one = replace(
        made_set(csr_array((2, 2)), csr_array((2, 2))), queries=("", "x"), documents=("y", long)
    )
    evaluate({"s": SparseRetriever(embed, embed, "s")}, {"made": lambda: one}, tmp_path)
    found = json.loads((tmp_path / "sparse_vectors.json").read_text())["s"]["made"]["examples"]
    assert [(own["id"], len(own["top"])) for own in found] == [("q0", 0), ("q1", 1), ("d1", 1)]
    assert found[2]["text"] == f"{long[:SHOWN]}..."


def planted(random: np.random.Generator, count: int, terms: int) -> csr_array:
    """Rows of which 2 and 9 have no term, and 4 has all but one of the vocabulary."""
    rows = real(random, count, terms, VOCABULARY).toarray()
    rows[[2, 9]] = 0
    rows[4] = 1
    rows[4, 7] = 0
    return csr_array(rows)


def test_planted_rows_are_warned_of_by_id(tmp_path: Path) -> None:
    random = np.random.default_rng(7)
    queries, documents = planted(random, 12, 5), planted(random, 40, 20)
    with collect_warnings() as warnings:
        found = recorded(tmp_path, queries, documents)
    assert warnings == [
        "ours: queries with no term in their vectors (they find nothing): 2 of 12 of made "
        "('q2', 'q9')",
        "ours: queries with nearly all terms in their vectors: 1 of 12 of made ('q4')",
        "ours: documents with no term in their vectors (they are never found): 2 of 40 of made "
        "('d2', 'd9')",
        "ours: documents with nearly all terms in their vectors: 1 of 40 of made ('d4')",
    ]
    assert found["documents"]["empty"] == {"count": 2, "first": ["d2", "d9"]}
    assert vector_warnings({"ours": {"made": found}}) == warnings
    several = vector_warnings({"ours": {f"s{number}": found for number in range(6)}})
    assert len(several) == 4
    assert several[1].endswith(
        "1 of 12 of s0 ('q4'), 1 of 12 of s1 ('q4'), 1 of 12 of s2 ('q4'), 1 of 12 of s3 ('q4') "
        "and of 2 more sets"
    )


def test_no_more_than_a_few_rows_are_named(tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    queries = real(random, 9, 4, VOCABULARY)
    with collect_warnings() as warnings:
        found = recorded(tmp_path, queries, csr_array((9, VOCABULARY)))
    assert found["documents"]["empty"]["count"] == 9
    assert "9 of 9 of made ('d0', 'd1', 'd2', 'd3', 'd4', ...)" in warnings[0]
    assert (found["posting_length"], found["flops"], found["dead_terms"]) == (0, 0, VOCABULARY)
    assert {one["kind"] for one in found["examples"]} == {"query"}


def test_nothing_is_written_of_other_retrievers(tmp_path: Path) -> None:
    one = made_set(csr_array((3, 2)), csr_array((3, 2)))
    evaluate({"bm25": BM25Retriever()}, {"made": lambda: one}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "per_query"]


def work(folder: Path) -> None:
    random = np.random.default_rng(9)
    queries, documents = planted(random, 12, 5), planted(random, 70, 20)
    ours = SparseRetriever(Rows(queries), Rows(documents), "rows", shard_texts=16)
    one = made_set(queries, documents)
    evaluate({"ours": ours}, {"made": lambda: one}, folder / "run")


def test_two_processes_record_what_one_does(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        if name == "one":
            work(tmp_path / name)
        else:
            (tmp_path / name).mkdir()
            in_two_processes(work, tmp_path / name)
        content = json.loads((tmp_path / name / "run/sparse_vectors.json").read_text())
        del content["ours"]["made"]["milliseconds_a_query"]
        found.append(content)
    assert found[0] == found[1]
