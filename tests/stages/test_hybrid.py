"""Hybrid retrieval and the report of sparse vectors as a user runs them."""

import json
from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseShape
from tests.command import assert_one_message
from tests.fixtures.evaluation import JUDGED
from tests.models.test_sparse_encoder import write_llama

GIVEN = ("--config-dir=conf",)
HYBRID = (
    *("+experiment=evaluate_hybrid", "benchmark=made", "model=tiny"),
    *("model.path=model0", "evaluate.encoders.ours=sparse/encoder"),
    *("+evaluate.encoders.uniform=model0", "run_dir=run"),
)
LABELS = ["bm25", "ours", "uniform", "bm25+ours", "bm25+ours weighted"]


@pytest.fixture
def folder(judged_folder: Path) -> Path:
    """Three sets, dense models, and a sparse encoder."""
    write_llama(judged_folder / "llama", tied=True)
    encoder = load_encoder(
        str(judged_folder / "llama"),
        pooling="last",
        query_tokens=40,
        passage_tokens=40,
        sparse=SparseShape(),
    )
    encoder.save(judged_folder / "sparse/encoder")
    return judged_folder


def test_from_fusions_to_a_report(command, folder: Path) -> None:
    ended = command(*HYBRID)
    assert ended.code == 0, ended.err
    assert "bm25+ours weighted: nDCG@10" in ended.out
    scored = json.loads((folder / "run/metrics.json").read_text())["retrievers"]
    assert sorted(scored) == sorted(LABELS)
    for label in LABELS:
        assert list(scored[label]["sets"]) == list(JUDGED)
    record = json.loads((folder / "run/run.json").read_text())
    assert "sparse_vectors.json" in record["outputs"]

    ended = command(*HYBRID, "+evaluate.fusions.third.of=[ours,uniform,bm25]")
    assert ended.code == 0, ended.err
    more = json.loads((folder / "run/metrics.json").read_text())["retrievers"]
    assert {label: more[label] for label in LABELS} == scored
    assert "third" in more

    place = str(folder / "sparse/encoder")
    encoder = load_encoder(place, pooling="last", query_tokens=40, passage_tokens=40)
    found = json.loads((folder / "run/sparse_vectors.json").read_text())["ours"]
    for name in JUDGED:
        lines = (folder / f"eval/{name}/corpus.jsonl").read_text().splitlines()
        vectors = encoder.embed_passages([json.loads(line)["text"] for line in lines]).toarray()
        assert found[name]["documents"]["mean"] == pytest.approx((vectors > 0).sum(1).mean())
        example = next(o for o in found[name]["examples"] if o["kind"] == "document")
        row = vectors[int(example["id"][1:])]
        assert example["top"][0]["weight"] == pytest.approx(row.max(), abs=1e-4)
        assert example["top"][0]["term"] == np.argmax(row)

    ended = command("+experiment=report", "report.runs=[run]", "run_dir=out")
    assert ended.code == 0, ended.err
    tested = json.loads((folder / "out/significance.json").read_text())
    assert {"bm25+ours", "bm25+ours weighted"} <= {one["retriever"] for one in tested}
    for name in ("report.md", "report.html"):
        text = (folder / "out" / name).read_text()
        assert "bm25+ours weighted" in text
        assert "Sparse vectors" in text
        assert "Top terms of ours on nq" in text


def test_an_unknown_retriever_is_refused_before_any_model_is_read(command, folder: Path) -> None:
    ended = command(*HYBRID, "evaluate.encoders.ours=missing", "+evaluate.fusions.x.of=[bm25,our]")
    assert ended.code == 2
    assert_one_message(ended, r"evaluate\.fusions\.x\.of: 'our' is no evaluated retriever; did you")
    ended = command(*HYBRID, "+evaluate.fusions.x.of=[bm25,'ours (64)']")
    assert ended.code == 2
    assert_one_message(ended, r"x: there is no retriever 'ours \(64\)', only bm25, ours, uniform")
    assert not (folder / "run/embeddings").exists()


PRUNED = (
    *("+experiment=evaluate_pruned", "benchmark=made", "model=tiny", "model.path=model0"),
    *("evaluate.encoders.ours=sparse/encoder", "evaluate.pruning.weights=float32"),
)


def test_pruned_vectors_find_what_a_full_comparison_of_the_largest_terms_finds(
    command, folder: Path
) -> None:
    ended = command(
        *PRUNED,
        "run_dir=few",
        "evaluate.pruning.document_terms=9",
        "evaluate.pruning.query_terms=4",
    )
    assert ended.code == 0, ended.err
    place = str(folder / "sparse/encoder")
    encoder = load_encoder(place, pooling="last", query_tokens=40, passage_tokens=40)

    def largest(vectors: np.ndarray, count: int) -> np.ndarray:
        order = (-vectors).argsort(axis=1, kind="stable")[:, count:]
        kept = vectors.copy()
        np.put_along_axis(kept, order, 0, axis=1)
        return kept

    found = json.loads((folder / "few/sparse_vectors.json").read_text())["ours"]
    for name in JUDGED:
        lines = (folder / f"eval/{name}/corpus.jsonl").read_text().splitlines()
        texts = [f"{row.get('title', '')} {row['text']}".strip() for row in map(json.loads, lines)]
        documents = largest(encoder.embed_passages(texts).toarray(), 9)
        assert found[name]["documents"]["mean"] == pytest.approx((documents > 0).sum(1).mean())
        assert found[name]["queries"]["max"] <= 4
    ended = command(
        *PRUNED,
        "run_dir=all",
        "evaluate.pruning.document_terms=100000",
        "evaluate.pruning.query_terms=100000",
    )
    assert ended.code == 0, ended.err
    scores = {
        run: json.loads((folder / run / "metrics.json").read_text())["retrievers"]["ours"]
        for run in ("few", "all")
    }
    ended = command(*PRUNED, "run_dir=plain", "evaluate.pruning=null")
    assert ended.code == 0, ended.err
    plain = json.loads((folder / "plain/metrics.json").read_text())["retrievers"]["ours"]
    assert scores["all"] == plain
    assert scores["few"] != plain


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "evaluate.encoders.ours=model0",
            "evaluate.pruning is for sparse vectors, and those of ours",
        ),
        (
            "evaluate.pruning.query_terms=0",
            "evaluate.pruning.query_terms=0 must be from 1 to 10,000,000",
        ),
        ("evaluate.pruning.weights=int4", "evaluate.pruning.weights='int4' must be one of"),
    ],
)
def test_pruning_that_cannot_be_is_refused(command, folder: Path, given: str, said: str) -> None:
    ended = command(*PRUNED, given, "run_dir=no")
    assert_one_message(ended, said)


def test_the_limits_of_data_hold_where_they_are_asked_for(command, folder: Path) -> None:
    """Texts of 40 tokens by the encoder's folder; longer ones than there are positions never."""
    plain = (*PRUNED, "evaluate.pruning=null", "benchmark=made", "data.passage_tokens=9")
    for run, said in (("folder", False), ("asked", True)):
        ended = command(*plain, f"evaluate.data_limits={str(said).lower()}", f"run_dir={run}")
        assert ended.code == 0, ended.err
        assert ("which holds; not data.passage_tokens=9" in ended.out) is not said
    scores = [
        json.loads((folder / run / "metrics.json").read_text())["retrievers"]["ours"]
        for run in ("folder", "asked")
    ]
    assert scores[0] != scores[1]
    ended = command(
        *plain, "evaluate.data_limits=true", "data.query_tokens=100000", "run_dir=too_long"
    )
    assert_one_message(ended, "data.query_tokens=100000: model.path=sparse/encoder has positions")
