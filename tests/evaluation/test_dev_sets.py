"""Dev scores against NumPy in float64 and ir_measures, in one process and in two."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tdro_lightning.data.domains import Domain
from tdro_lightning.distributed.processes import rank
from tdro_lightning.errors import DataError, NonFiniteError
from tdro_lightning.evaluation import dev_sets
from tdro_lightning.evaluation.benchmark import RetrievalSet
from tdro_lightning.evaluation.dev_sets import (
    DevSets,
    dev_set_of_folder,
    dev_set_of_rows,
    embed_together,
)
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseShape
from tests.fixtures.evaluation import in_two_processes
from tests.made_up import rows, tiny_model
from tests.models.test_sparse_encoder import write_llama

TEMPERATURE, CPU = 0.05, torch.device("cpu")
PROMPTS = ("Find it", "Not this one")


def tiny(folder: Path, **changed: Any) -> Encoder:
    sizes = {"pooling": "last", "query_tokens": 40, "passage_tokens": 64} | changed
    encoder = load_encoder(str(folder), **sizes).eval()
    with torch.no_grad():  # an untrained one gives nearly equal vectors to texts with a prompt
        generator = torch.Generator().manual_seed(4)
        for parameter in encoder.backbone.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return encoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_model(tmp_path_factory.mktemp("dev") / "model", layers=2))


def awkward(count: int = 12) -> list[dict[str, Any]]:
    """Rows of which two share a query, two a positive, and some have few negatives."""
    made = rows("made", count, 2)
    made[1]["query"] = made[0]["query"].upper()
    made[3]["positive_passages"] = made[2]["positive_passages"]
    made[4]["positive_passages"] += made[5]["positive_passages"]
    made[6]["negative_passages"] = made[6]["negative_passages"][:2]
    made[7]["negative_passages"][0] = {**made[8]["positive_passages"][0], "docid": "n"}
    return made


def instructed(text: str) -> str:
    return f"Instruct: {PROMPTS[0]}\nQuery: {text}"


def expected(
    encoder: Encoder, made: list[dict[str, Any]], negatives: int, prompted: bool = False
) -> dict[str, float]:
    """Loss and nDCG@10 of rows, computed a second time."""

    seen: dict[tuple[str, bool], Any] = {}

    def vector(text: str, *, query: bool) -> np.ndarray[Any, Any]:
        read = instructed(text) if query or prompted else text
        if (read, query) not in seen:
            found = encoder.embed_queries([read], None) if query else encoder.embed_passages([read])
            seen[read, query] = found[0].astype(np.float64)
        return seen[read, query]

    texts = [
        [p["text"] for p in (row["positive_passages"] + row["negative_passages"])] for row in made
    ]
    losses, pool = [], {}
    for row, (positive, *others) in zip(made, texts, strict=True):
        others = others[len(row["positive_passages"]) - 1 :]
        chosen = [positive, *(others[i % len(others)] for i in range(negatives))]
        pool |= dict.fromkeys(chosen)
        query = vector(row["query"], query=True)
        scores = np.array([query @ vector(text, query=False) for text in chosen]) / TEMPERATURE
        losses.append(np.log(np.exp(scores - scores[0]).sum()))
    run, qrels = {}, {}
    for row in made:
        query = vector(row["query"], query=True)
        run[row["query_id"]] = {text: float(query @ vector(text, query=False)) for text in pool}
        qrels[row["query_id"]] = {
            p["text"]: 1
            for other in made
            if other["query"].lower() == row["query"].lower()
            for p in other["positive_passages"]
            if p["text"] in pool
        }
    ndcg = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)
    return {"loss": float(np.mean(losses)), "ndcg@10": ndcg[ir_measures.nDCG @ 10]}


@pytest.mark.parametrize(("symmetric", "prompted"), [(False, True), (True, False), (True, True)])
def test_scores_are_those_of_a_second_computation(
    model: Path, make_domain: Callable[..., Domain], symmetric: bool, prompted: bool
) -> None:
    encoder, made = tiny(model), awkward()
    domain = make_domain("made", made, PROMPTS, symmetric)
    dev = dev_set_of_rows(domain, list(domain.table), 4, prompted)
    found = DevSets([dev], encoder, TEMPERATURE).measure(encoder, CPU)
    theirs = expected(encoder, made, 4, symmetric and prompted)
    for metric, value in theirs.items():
        assert found[metric] == pytest.approx(value, abs=1e-5)
        assert found[f"{metric}/made"] == found[metric]
    assert len(found) == 4


def test_domains_count_alike_whatever_their_rows(
    model: Path, make_domain: Callable[..., Domain]
) -> None:
    encoder = tiny(model)
    domains = [make_domain(name, rows(name, n, 2), PROMPTS) for name, n in (("a.b", 9), ("é", 1))]
    sets = [dev_set_of_rows(domain, list(domain.table), 3) for domain in domains]
    found = DevSets(sets, encoder, TEMPERATURE).measure(encoder, CPU)
    for metric in ("loss", "ndcg@10"):
        parts = [found[f"{metric}/{domain.name}"] for domain in domains]
        assert found[metric] == pytest.approx(sum(parts) / 2, abs=1e-12)
        alone = [DevSets([s], encoder, TEMPERATURE).measure(encoder, CPU)[metric] for s in sets]
        assert parts == pytest.approx(alone, abs=1e-6)


def test_rows_without_negatives_have_no_loss(
    model: Path, make_domain: Callable[..., Domain]
) -> None:
    encoder = tiny(model)
    domain = make_domain("bare", rows("bare", 6, 2, negatives=0))
    found = DevSets([dev_set_of_rows(domain, list(domain.table), 0)], encoder, 1.0).measure(
        encoder, CPU
    )
    assert found.keys() == {"ndcg@10", "ndcg@10/bare"}
    assert 0 < found["ndcg@10"] <= 1


def made_set(documents: int = 30, **changed: Any) -> RetrievalSet:
    texts = [row["positive_passages"][0]["text"] for row in rows("set", documents, 2)]
    content: dict[str, Any] = {
        "name": "set",
        "document_ids": [f"d{i}" for i in range(documents)],
        "documents": texts,
        "query_ids": ("q0", "d5"),
        "queries": ("red stone", texts[5]),
        "qrels": {"q0": {"d1": 2, "d2": 1}, "d5": {"d7": 1, "d5": 1}},
        "answers": None,
        "prompt": PROMPTS[0],
    }
    return RetrievalSet(**(content | changed))


def test_a_folder_is_ranked_whole(model: Path) -> None:
    encoder, dataset = tiny(model), made_set()
    dev = DevSets([dev_set_of_folder(dataset)], encoder, 1.0)
    vectors = encoder.embed_passages(dataset.documents).astype(np.float64)
    run = {
        name: dict(zip(dataset.document_ids, (vectors @ query).tolist(), strict=True))
        for name, query in zip(
            dataset.query_ids,
            encoder.embed_queries([instructed(q) for q in dataset.queries], None).astype(float),
            strict=True,
        )
    }
    theirs = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], dataset.qrels, run)
    assert dev.measure(encoder, CPU) == {
        "ndcg@10": pytest.approx(theirs[ir_measures.nDCG @ 10], abs=1e-6)
    }


def test_a_folder_that_is_large_or_without_judgements_is_refused(monkeypatch) -> None:
    for qrels in ({}, {"q0": {"d1": 0, "d2": -1}}):
        with pytest.raises(DataError, match="no document is judged relevant"):
            dev_set_of_folder(made_set(qrels=qrels, answers={"q0": ("a",)}))
    monkeypatch.setattr(dev_sets, "MOST_DOCUMENTS", 29)
    with pytest.raises(DataError, match="the corpus has 30 documents, and 29 at most"):
        dev_set_of_folder(made_set())


def test_a_lost_model_ends_the_run_and_says_what_to_do(model: Path) -> None:
    encoder = tiny(model)
    dev = DevSets([dev_set_of_folder(made_set())], encoder, 1.0)
    with torch.no_grad():
        next(encoder.backbone.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match=r"32 of 32 embeddings .* Lower optimiser\.lr"):
        dev.measure(encoder, CPU)


def embed_and_write(folder: Path) -> None:
    """Vectors and scores of this process, some of whose texts are equal, and fewer than two."""
    encoder = tiny(folder / "model", chunk_tokens=60)
    dev = DevSets([dev_set_of_folder(made_set(7))], encoder, 1.0)
    texts = ["red stone", "blue river", "red stone", "small round green bird by day"]
    vectors = [
        embed_together(encoder, encoder.tokenizer(some, 40), CPU).tolist()
        for some in (texts, texts[:1])
    ]

    content = {"vectors": vectors, "scores": dev.measure(encoder, CPU)}
    (folder / f"{rank()}.json").write_text(json.dumps(content))


def test_processes_share_the_texts_and_get_the_same_scores(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(model)
    embed_and_write(tmp_path)
    alone = json.loads((tmp_path / "0.json").read_text())
    with torch.no_grad():
        in_two_processes(embed_and_write, tmp_path)
    ours = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2)]
    assert ours[0] == ours[1]
    assert ours[0]["scores"] == pytest.approx(alone["scores"], abs=1e-6)
    for one, other in zip(ours[0]["vectors"], alone["vectors"], strict=True):
        assert np.allclose(one, other, rtol=0, atol=1e-6)


def test_a_sparse_encoder_is_measured_as_a_dense_one(
    tmp_path: Path, make_domain: Callable[..., Domain]
) -> None:
    """Loss and nDCG@10 of rows from whole vectors; a text without an active term may be ranked."""
    encoder = load_encoder(
        str(write_llama(tmp_path / "llama", True)),
        pooling="last",
        query_tokens=40,
        passage_tokens=64,
        sparse=SparseShape(),
    ).eval()
    domain = make_domain("made", rows("made", 12, 2), PROMPTS, False)
    dev = dev_set_of_rows(domain, list(domain.table), 2)
    queries = torch.from_numpy(encoder.embed_queries(dev.dataset.queries, PROMPTS[0]).toarray())
    documents = torch.from_numpy(encoder.embed_passages(dev.dataset.documents).toarray())
    scores = (queries[dev.rows[:, :1]] * documents[dev.rows[:, 1:]]).sum(-1)
    loss = F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))
    run = {
        name: dict(zip(dev.dataset.document_ids, (documents @ query).tolist(), strict=True))
        for name, query in zip(dev.dataset.query_ids, queries, strict=True)
    }
    ndcg = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], dev.dataset.qrels, run)
    found = DevSets([dev], encoder, 1.0).measure(encoder, CPU)
    assert found["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert found["ndcg@10"] == pytest.approx(ndcg[ir_measures.nDCG @ 10], abs=1e-6)
    with torch.no_grad():
        for parameter in encoder.backbone.parameters():
            parameter.zero_()
    empty = DevSets([dev], encoder, 1.0).measure(encoder, CPU)
    assert empty["loss"] == pytest.approx(np.log(3), rel=1e-6)
