"""Our numbers against those of sentence-transformers and MTEB, for one encoder on one local set."""

import json
import logging
from pathlib import Path

import pytest

from tdro_lightning.models.loading import load_encoder
from tests.command import run
from tests.evaluation.judged_set import mteb_task, write_judged_set
from tests.made_up import tiny_model

PROMPT = "Given a search query, retrieve passages"
TOKENS = 48
POOLING = "mean"  # the last tokens of an untrained model are so alike that rounding orders them

# What the other two do while they are imported and run is their own affair.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 60 queries and 480 documents with graded judgements, and an encoder."""
    folder = tmp_path_factory.mktemp("agreement")
    write_judged_set(folder, PROMPT)
    tiny_model(folder / "tiny")
    encoder = load_encoder(
        str(folder / "tiny"), pooling=POOLING, query_tokens=TOKENS, passage_tokens=TOKENS
    )
    encoder.save(folder / "encoder")
    return folder


@pytest.fixture
def ours(made: Path, capfd: pytest.CaptureFixture[str]) -> dict[str, float]:
    ended = run(
        capfd, made, "--config-dir=conf", "+experiment=evaluate", "benchmark=made",
        "evaluate.bm25=false", "+evaluate.encoders.tiny=encoder", "run_dir=run",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return json.loads((made / "run/metrics.json").read_text())["retrievers"]["tiny"]["sets"]["made"]


@pytest.fixture
def sentence_encoder(made: Path):
    """The encoder's folder as sentence-transformers reads it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    transformer = modules.Transformer(str(made / "encoder"), max_seq_length=TOKENS)
    pooling = modules.Pooling(transformer.get_embedding_dimension(), pooling_mode=POOLING)
    parts = [transformer, pooling, modules.Normalize()]
    return SentenceTransformer(modules=parts, device="cpu")


def lines(made: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (made / f"data/made/{name}.jsonl").open()]


def test_sentence_transformers_finds_our_numbers(made: Path, ours, sentence_encoder) -> None:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    relevant: dict[str, set[str]] = {}
    for row in lines(made, "qrels/test"):
        if row["score"] > 0:
            relevant.setdefault(row["query-id"], set()).add(row["corpus-id"])
    evaluator = InformationRetrievalEvaluator(
        {row["_id"]: row["text"] for row in lines(made, "queries")},
        {row["_id"]: f"{row['title']} {row['text']}".strip() for row in lines(made, "corpus")},
        relevant,
        precision_recall_at_k=[100],
        query_prompt=f"Instruct: {PROMPT}\nQuery: ",
        write_csv=False,
    )
    theirs = evaluator(sentence_encoder)
    assert 0.05 < ours["mrr@10"] < 0.95
    assert theirs["cosine_mrr@10"] == pytest.approx(ours["mrr@10"], abs=1e-4)
    assert theirs["cosine_recall@100"] == pytest.approx(ours["recall@100"], abs=1e-4)
    # It knows no grades: what it calls nDCG is ours of judgements without them.
    assert theirs["cosine_ndcg@10"] == pytest.approx(_binary_ndcg(made), abs=1e-4)


def _binary_ndcg(made: Path) -> float:
    from tdro_lightning.evaluation.benchmark import build_retrieval_set
    from tdro_lightning.evaluation.evaluate import score_set
    from tdro_lightning.evaluation.sets.hub_copy import hub_corpus, hub_questions
    from tdro_lightning.search.dense import exact_search

    folder = made / "data/made"
    one = build_retrieval_set("made", hub_corpus(folder), hub_questions(folder, "test"))
    for grades in one.qrels.values():
        grades |= {document: min(grade, 1) for document, grade in grades.items()}
    encoder = load_encoder(
        str(made / "encoder"), pooling=POOLING, query_tokens=TOKENS, passage_tokens=TOKENS
    )
    queries = encoder.embed_queries(one.queries, PROMPT)
    documents = encoder.embed_passages(one.documents)
    values = score_set(lambda depth: exact_search(queries, documents, depth), one)
    return sum(v["ndcg@10"] for v in values.values()) / len(values)


def test_mteb_finds_our_numbers(
    made: Path, ours, sentence_encoder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="mteb")
    import mteb
    from mteb.models import SentenceTransformerEncoderWrapper

    prompts = {"query": f"Instruct: {PROMPT}\nQuery: "}
    model = SentenceTransformerEncoderWrapper(sentence_encoder, model_prompts=prompts)
    results = mteb.evaluate(
        model, mteb_task(made), cache=None, co2_tracker=False, show_progress_bar=False
    )
    (theirs,) = results.task_results[0].scores["test"]
    assert 0.05 < ours["ndcg@10"] < 0.95
    for name, other in (
        ("ndcg@10", "ndcg_at_10"),
        ("recall@100", "recall_at_100"),
        ("mrr@10", "mrr_at_10"),
    ):
        assert theirs[other] == pytest.approx(ours[name], abs=1e-4), name
