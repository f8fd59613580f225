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
