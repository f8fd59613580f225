"""Fusions of an evaluation: rows like any other, from rankings that are computed once."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tdro_lightning.errors import ConfigError
from tdro_lightning.evaluation.benchmark import RetrievalSet
from tdro_lightning.evaluation.evaluate import evaluate, prepare_search
from tdro_lightning.search.bm25 import BM25, BM25Retriever
from tdro_lightning.search.dense import DenseRetriever
from tdro_lightning.search.fusion import Fusion
from tdro_lightning.search.retriever import Hits
from tests.evaluation.test_evaluate import LARGE, PLAIN, content, letter_counts, sets
from tests.fixtures.evaluation import in_two_processes

FUSIONS = {
    "both": Fusion(("bm25", "dense")),
    "scores": Fusion(("dense", "bm25"), "weighted", (0.7, 0.3)),
}


def embed(texts: Sequence[str], prompt: str | None = None) -> NDArray[np.float32]:
    return np.sqrt(letter_counts(texts) + 0.1 * len(prompt or ""))


def retrievers() -> dict[str, BM25Retriever | DenseRetriever]:
    return {"bm25": BM25Retriever(), "dense": DenseRetriever(embed, embed, "d", shard_texts=8)}


def ndcg_by_hand(one: RetrievalSet, folder: Path, depth: int) -> dict[str, float]:
    """nDCG@10 of `both`, each step by itself: rankings, sums of reciprocal ranks, gains."""
    found = {}
    searches = [prepare_search(retriever, one, folder) for retriever in retrievers().values()]
    ranked = [search(depth + 1)[1].tolist() for search in searches]
    for row, query in enumerate(one.query_ids):
        sums: Counter[int] = Counter()
        for lists in ranked:
            left = [i for i in lists[row] if i >= 0]
            if one.skip_own_id:
                left = [i for i in left if one.document_ids[i] != query]
            for rank, document in enumerate(left[:depth], start=1):
                sums[document] += 1 / (60 + rank)
        best = sorted(sums, key=lambda document: (-sums[document], document))[: min(depth, 10)]
        grades = [one.qrels[query].get(one.document_ids[i], 0) for i in best]
        ideal = sorted(one.qrels[query].values(), reverse=True)[:10]
        gains = [sum(g / np.log2(2 + k) for k, g in enumerate(own)) for own in (grades, ideal)]
        found[query] = gains[0] / gains[1]
    return found


OWN = replace(
    LARGE,
    name="own",
    query_ids=tuple(f"d{3 * i}" for i in range(11)),
    qrels={f"d{3 * i}": judged for i, judged in enumerate(LARGE.qrels.values())},
    skip_own_id=True,
    depth=5,
)


@pytest.mark.parametrize("one", [LARGE, OWN], ids=lambda one: one.name)
def test_a_fusion_is_scored_as_by_hand(tmp_path: Path, one: RetrievalSet) -> None:
    metrics = evaluate(retrievers(), sets(one), tmp_path / "run", fusions=FUSIONS)["retrievers"]
    assert list(metrics) == ["bm25", "dense", "both", "scores"]
    expected = ndcg_by_hand(one, tmp_path / "hand", one.depth)
    per_query = json.loads((tmp_path / f"run/per_query/both/{one.name}.json").read_text())
    assert {q: v["ndcg@10"] for q, v in per_query.items()} == pytest.approx(expected, abs=1e-9)
    mean = metrics["both"]["sets"][one.name]["ndcg@10"]
    assert mean == pytest.approx(np.mean([*expected.values()]))
    assert mean not in {metrics[name]["average"]["ndcg@10"] for name in ("bm25", "dense", "scores")}
    alone = evaluate(retrievers(), sets(one), tmp_path / "alone")["retrievers"]
    assert {name: metrics[name] for name in alone} == alone


def test_members_are_searched_once(tmp_path: Path) -> None:
    searched: list[int] = []

    class Recording(BM25Retriever):
        def index(self, documents: Sequence[str], folder: Path, name: str, position=None) -> BM25:
            class Index(BM25):
                def search(self, queries: Sequence[str], depth: int) -> Hits:
                    searched.append(len(queries))
                    return super().search(queries, depth)

            return Index(documents)

    members = retrievers() | {"bm25": Recording()}
    evaluate(members, sets(LARGE, PLAIN), tmp_path, fusions=FUSIONS)
    assert searched == [11, 2]


def test_kept_embeddings_and_a_resumed_evaluation_give_the_same(tmp_path: Path) -> None:
    left = [3]

    def failing(texts: Sequence[str], prompt: str | None = None) -> NDArray[np.float32]:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return embed(texts, prompt)

    broken = retrievers() | {"dense": DenseRetriever(failing, failing, "d", shard_texts=8)}
    with pytest.raises(KeyboardInterrupt):
        evaluate(broken, sets(LARGE), tmp_path / "one", tmp_path / "kept", FUSIONS)
    evaluate(retrievers(), sets(LARGE), tmp_path / "one", tmp_path / "kept", FUSIONS)
    left[0] = 0
    evaluate(broken, sets(LARGE), tmp_path / "again", tmp_path / "kept", FUSIONS)  # all is there
    evaluate(retrievers(), sets(LARGE), tmp_path / "whole", None, FUSIONS)
    assert content(tmp_path / "one") == content(tmp_path / "again") == content(tmp_path / "whole")


def work(folder: Path) -> None:
    evaluate(retrievers(), sets(LARGE, PLAIN), folder / "two", fusions=FUSIONS)


def test_two_processes_write_the_bytes_of_one(tmp_path: Path) -> None:
    evaluate(retrievers(), sets(LARGE, PLAIN), tmp_path / "one", fusions=FUSIONS)
    in_two_processes(work, tmp_path)
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_what_does_not_fit_is_refused_before_any_encoding(tmp_path: Path) -> None:
    given = sets(PLAIN)
    with pytest.raises(
        ConfigError, match=r"fusions\.f: there is no retriever 'dense \(64\)', only"
    ):
        evaluate(retrievers(), given, tmp_path, fusions={"f": Fusion(("bm25", "dense (64)"))})
    with pytest.raises(ConfigError, match="'bm25' and 'BM25' would share the file name"):
        evaluate(retrievers(), given, tmp_path, fusions={"BM25": FUSIONS["both"]})
    assert not list(tmp_path.iterdir())
