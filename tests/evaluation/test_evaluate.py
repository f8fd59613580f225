import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.evaluation.benchmark import RetrievalSet
from tdro_lightning.evaluation.evaluate import Dense, Lexical, evaluate

ANIMALS = RetrievalSet(
    name="animals",
    document_ids=("d1", "d2", "d3"),
    documents=("cats sleep", "dogs bark at cats", "birds sing"),
    query_ids=("q1", "q2"),
    queries=("cats", "horses"),
    qrels={"q1": {"d2": 1}, "q2": {"d3": 1}},
    answers={"q1": ("cats",), "q2": ("horses",)},
    prompt="Find the animal",
)
PLAIN = replace(ANIMALS, name="plain", answers=None, prompt=None)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def letter_counts(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.array([[text.count(c) for c in LETTERS] for text in texts], np.float32)


def test_files_and_numbers_for_bm25(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    metrics = evaluate({"BM25": Lexical()}, [ANIMALS, PLAIN], tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    second = 1 / np.log2(3)
    ranked = {"ndcg@10": pytest.approx(second / 2), "recall@100": 0.5, "mrr@10": 0.25}
    accuracy = {"accuracy@10": 0.5, "accuracy@100": 0.5}
    assert metrics == {
        "retrievers": {
            "BM25": {
                "sets": {
                    "animals": {**ranked, **accuracy, "queries": 2},
                    "plain": {**ranked, "queries": 2},
                },
                "average": {**ranked, **accuracy},
            }
        }
    }
    per_query = json.loads((tmp_path / "per_query/BM25/plain.json").read_text())
    assert per_query == {
        "q1": {"ndcg@10": pytest.approx(second), "recall@100": 1.0, "mrr@10": 0.5},
        "q2": {"ndcg@10": 0.0, "recall@100": 0.0, "mrr@10": 0.0},
    }
    assert capfd.readouterr() == ("", "")


def test_dense_ranks_by_inner_product_and_gets_the_prompt(tmp_path: Path) -> None:
    prompts: list[str | None] = []

    def embed_queries(texts: Sequence[str], prompt: str | None) -> NDArray[np.float32]:
        prompts.append(prompt)
        return letter_counts(texts)

    dense = Dense(embed_queries, letter_counts)
    _, indices = dense.rank(ANIMALS.queries, ANIMALS.documents, 3, None)
    products = letter_counts(ANIMALS.queries) @ letter_counts(ANIMALS.documents).T
    np.testing.assert_array_equal(indices, np.argsort(-products, axis=1, kind="stable"))
    metrics = evaluate({"dense": dense, "BM25": Lexical()}, [ANIMALS, PLAIN], tmp_path)
    assert prompts == [None, "Find the animal", None]
    assert list(metrics["retrievers"]) == ["dense", "BM25"]
    assert metrics["retrievers"]["dense"]["sets"]["animals"]["recall@100"] == 1.0


def test_equal_scores_are_ranked_by_document_order(tmp_path: Path) -> None:
    dense = Dense(
        lambda texts, prompt: np.ones((len(texts), 2), np.float32),
        lambda texts: np.ones((len(texts), 2), np.float32),
    )
    evaluate({"constant": dense}, [PLAIN], tmp_path)
    per_query = json.loads((tmp_path / "per_query/constant/plain.json").read_text())
    assert [values["mrr@10"] for values in per_query.values()] == [1 / 2, pytest.approx(1 / 3)]


def test_labels_become_safe_folder_names(tmp_path: Path) -> None:
    evaluate({"../tDRO (top 70 %)": Lexical()}, [PLAIN], tmp_path / "run")
    written = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.json"))
    assert written == ["run/metrics.json", "run/per_query/tDRO-top-70/plain.json"]


def test_names_that_cannot_be_used(tmp_path: Path) -> None:
    lexical = Lexical()
    with pytest.raises(ConfigError, match="'a b' and 'A/B' would share the file name 'A-B'"):
        evaluate({"a b": lexical, "A/B": lexical}, [PLAIN], tmp_path)
    with pytest.raises(ConfigError, match="evaluation sets 'plain' and 'plain' would share"):
        evaluate({"a": lexical}, [PLAIN, PLAIN], tmp_path)
    with pytest.raises(ConfigError, match=r"retriever '\.\.': the name needs a letter or digit"):
        evaluate({"..": lexical}, [PLAIN], tmp_path)
    with pytest.raises(ConfigError, match="at least one retriever"):
        evaluate({}, [PLAIN], tmp_path)
    with pytest.raises(ConfigError, match="at least one evaluation set"):
        evaluate({"a": lexical}, [], tmp_path)
    assert not list(tmp_path.iterdir())


def test_broken_embeddings_name_retriever_and_set(tmp_path: Path) -> None:
    dense = Dense(
        lambda texts, prompt: np.full((len(texts), 2), np.nan, np.float32),
        lambda texts: np.ones((len(texts), 2), np.float32),
    )
    with pytest.raises(DataError, match="broken on plain: 2 of 2 query embeddings hold NaN"):
        evaluate({"broken": dense}, [PLAIN], tmp_path)
    assert not (tmp_path / "metrics.json").exists()
