import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tdro_lightning.distributed.processes import rank
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.evaluation.benchmark import ContentHasher, RetrievalSet, SetLoaders
from tdro_lightning.evaluation.evaluate import evaluate, prepare_search
from tdro_lightning.search.bm25 import BM25, BM25Retriever
from tdro_lightning.search.dense import DenseRetriever
from tdro_lightning.search.retriever import Hits
from tests.fixtures.evaluation import in_two_processes

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
WORDS = ("cat", "dog", "bird", "fish", "sleeps", "barks", "sings", "swims")
LARGE = RetrievalSet(
    name="large",
    document_ids=tuple(f"d{i}" for i in range(61)),
    documents=tuple(f"{WORDS[i % 8]} {WORDS[i % 7]} {WORDS[i % 3]} {i}" for i in range(61)),
    query_ids=tuple(f"q{i}" for i in range(11)),
    queries=tuple(f"{WORDS[i % 8]} {WORDS[(3 * i) % 8]}" for i in range(11)),
    qrels={f"q{i}": {f"d{5 * i}": 1, f"d{7 * i % 61}": 2} for i in range(11)},
    answers=None,
    prompt="Find the animal",
)


def sets(*loaded: RetrievalSet) -> SetLoaders:
    return {one.name: lambda one=one: one for one in loaded}


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def letter_counts(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.array([[text.count(c) for c in LETTERS] for text in texts], np.float32)


def test_files_and_numbers_for_bm25(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    metrics = evaluate({"BM25": BM25Retriever()}, sets(ANIMALS, PLAIN), tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    second = 1 / np.log2(3)
    ranked = {"ndcg@10": pytest.approx(second / 2), "recall@100": 0.5, "mrr@10": 0.25}
    accuracy = {"accuracy@10": 0.5, "accuracy@100": 0.5}
    described = {"sha256": ContentHasher().digest(ANIMALS), "queries": 2}
    plain = {"sha256": ContentHasher().digest(PLAIN), "queries": 2}
    assert metrics == {
        "sets": {
            "animals": described,
            "plain": plain,
        },
        "retrievers": {
            "BM25": {
                "sets": {
                    "animals": {**ranked, **accuracy, "queries": 2},
                    "plain": {**ranked, "queries": 2},
                },
                "average": {**ranked, **accuracy},
            }
        },
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

    dense = DenseRetriever(embed_queries, letter_counts, "letters")
    _, indices = prepare_search(dense, PLAIN, tmp_path / "shards")(3)
    products = letter_counts(ANIMALS.queries) @ letter_counts(ANIMALS.documents).T
    np.testing.assert_array_equal(indices, np.argsort(-products, axis=1, kind="stable"))
    metrics = evaluate({"dense": dense, "BM25": BM25Retriever()}, sets(ANIMALS, PLAIN), tmp_path)
    assert prompts == [None, "Find the animal", None]
    assert list(metrics["retrievers"]) == ["dense", "BM25"]
    assert metrics["retrievers"]["dense"]["sets"]["animals"]["recall@100"] == 1.0


def test_documents_that_sets_share_are_embedded_once(tmp_path: Path) -> None:
    embedded: list[int] = []

    def embed(texts: Sequence[str], prompt: str | None = None) -> NDArray[np.float32]:
        embedded.append(len(texts))
        return letter_counts(texts)

    shared = [replace(PLAIN, name=name, prompt=name) for name in ("a", "b")]
    metrics = evaluate({"dense": DenseRetriever(embed, embed, "letters")}, sets(*shared), tmp_path)
    assert embedded == [2, 3, 2]
    assert len({str(v) for v in metrics["retrievers"]["dense"]["sets"].values()}) == 1


def test_sets_are_loaded_one_after_the_other(tmp_path: Path) -> None:
    events: list[str] = []

    class Recording(BM25Retriever):
        def index(self, documents: Sequence[str], folder: Path, name: str, position=None) -> BM25:
            events.append(f"search {name}")
            return super().index(documents, folder, name)

    def loader(one: RetrievalSet) -> Callable[[], RetrievalSet]:
        return lambda: (events.append(f"load {one.name}"), one)[1]

    lazy = {one.name: loader(one) for one in (ANIMALS, PLAIN)}
    evaluate({"a": Recording(), "b": Recording()}, lazy, tmp_path)
    assert events == [
        *("load animals", "search animals", "search animals"),
        *("load plain", "search plain", "search plain"),
    ]


def test_a_set_may_have_answers_only(tmp_path: Path) -> None:
    answered = replace(ANIMALS, qrels={})
    metrics = evaluate({"BM25": BM25Retriever()}, sets(answered), tmp_path)["retrievers"]["BM25"]
    accuracy = {"accuracy@10": 0.5, "accuracy@100": 0.5}
    assert metrics == {"sets": {"animals": accuracy | {"queries": 2}}, "average": accuracy}


def test_equal_scores_are_ranked_by_document_order(tmp_path: Path) -> None:
    dense = DenseRetriever(
        lambda texts, prompt: np.ones((len(texts), 2), np.float32),
        lambda texts: np.ones((len(texts), 2), np.float32),
        "ones",
    )
    evaluate({"constant": dense}, sets(PLAIN), tmp_path)
    per_query = json.loads((tmp_path / "per_query/constant/plain.json").read_text())
    assert [values["mrr@10"] for values in per_query.values()] == [1 / 2, pytest.approx(1 / 3)]


def test_labels_become_safe_folder_names(tmp_path: Path) -> None:
    evaluate({"../tDRO (top 70 %)": BM25Retriever()}, sets(PLAIN), tmp_path / "run")
    written = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.json"))
    assert written == ["run/metrics.json", "run/per_query/tDRO-top-70/plain.json"]


def test_names_that_cannot_be_used(tmp_path: Path) -> None:
    lexical = BM25Retriever()
    with pytest.raises(ConfigError, match="'a b' and 'A/B' would share the file name 'A-B'"):
        evaluate({"a b": lexical, "A/B": lexical}, sets(PLAIN), tmp_path)
    with pytest.raises(ConfigError, match="evaluation sets 'plain' and 'Plain' would share"):
        evaluate({"a": lexical}, sets(PLAIN, replace(PLAIN, name="Plain")), tmp_path)
    with pytest.raises(ConfigError, match=r"retriever '\.\.': the name needs a letter or digit"):
        evaluate({"..": lexical}, sets(PLAIN), tmp_path)
    with pytest.raises(ConfigError, match="at least one retriever"):
        evaluate({}, sets(PLAIN), tmp_path)
    with pytest.raises(ConfigError, match="at least one evaluation set"):
        evaluate({"a": lexical}, sets(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_broken_embeddings_name_retriever_and_set(tmp_path: Path) -> None:
    dense = DenseRetriever(
        lambda texts, prompt: np.full((len(texts), 2), np.nan, np.float32),
        lambda texts: np.ones((len(texts), 2), np.float32),
        "ones",
    )
    with pytest.raises(DataError, match="broken on plain: 2 of 2 query embeddings hold NaN"):
        evaluate({"broken": dense}, sets(PLAIN), tmp_path)
    assert not (tmp_path / "metrics.json").exists()


class RecordingRetriever(BM25Retriever):
    """BM25 that notes down which process searches and builds the index."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def index(self, documents: Sequence[str], folder: Path, name: str, position=None) -> BM25:
        record = self.folder / f"searched-{rank()}"

        class RecordingIndex(BM25):
            def search(self, queries: Sequence[str], depth: int) -> Hits:
                record.touch()
                return super().search(queries, depth)

        return RecordingIndex(documents)


def shared(folder: Path, output: str) -> list[tuple[str, ...]]:
    """Evaluate on two sets with shards of 4 texts; the texts of each call to the encoder."""
    calls: list[tuple[str, ...]] = []

    def embed(texts: Sequence[str], prompt: str | None = None) -> NDArray[np.float32]:
        calls.append(tuple(texts))
        return np.sqrt(letter_counts(texts) + 0.1 * len(prompt or ""))

    dense = DenseRetriever(embed, embed, "letters", shard_texts=4)
    retrievers = {"BM25": RecordingRetriever(folder), "dense": dense}
    metrics = evaluate(retrievers, sets(LARGE, ANIMALS), folder / output)
    (folder / f"{output}-{rank()}.json").write_text(json.dumps([metrics, calls]))
    return calls


def work(folder: Path) -> None:
    shared(folder, "two")


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_two_processes_write_the_bytes_of_one(tmp_path: Path) -> None:
    calls = shared(tmp_path, "one")
    in_two_processes(work, tmp_path)
    assert content(tmp_path / "two") == content(tmp_path / "one")
    files = [f"per_query/{r}/{s}.json" for r in ("BM25", "dense") for s in ("animals", "large")]
    assert sorted(content(tmp_path / "one")) == ["metrics.json", *files]
    metrics, (first, second) = zip(
        *(json.loads((tmp_path / f"two-{number}.json").read_text()) for number in range(2)),
        strict=True,
    )
    assert metrics[0] == metrics[1] == json.loads((tmp_path / "one/metrics.json").read_text())
    assert 0 < metrics[0]["retrievers"]["dense"]["sets"]["large"]["ndcg@10"] < 1
    assert sorted(map(tuple, first + second)) == sorted(calls)
    assert [len(first), len(second)] == [2 + 8 + 1 + 1, 1 + 8]
    assert (tmp_path / "searched-0").exists()
    assert not (tmp_path / "searched-1").exists()


def test_an_interrupted_run_embeds_only_what_is_missing(tmp_path: Path) -> None:
    embedded: list[int] = []

    def dense(last: int, fingerprint: str = "letters") -> DenseRetriever:
        def embed(texts: Sequence[str], prompt: str | None = None) -> NDArray[np.float32]:
            if len(embedded) == last:
                raise KeyboardInterrupt
            embedded.append(len(texts))
            return letter_counts(texts)

        return DenseRetriever(embed, embed, fingerprint, shard_texts=8)

    with pytest.raises(KeyboardInterrupt):
        evaluate({"dense": dense(7)}, sets(PLAIN, LARGE), tmp_path / "run")
    assert (tmp_path / "run/per_query/dense/plain.json").exists()
    assert not (tmp_path / "run/metrics.json").exists()
    evaluate({"dense": dense(-1)}, sets(PLAIN, LARGE), tmp_path / "run")
    assert embedded == [2, 3] + [8, 3] + [8, 8, 8] + [8, 8, 8, 8, 5]
    evaluate({"dense": dense(-1)}, sets(PLAIN, LARGE), tmp_path / "whole")
    assert content(tmp_path / "run") == content(tmp_path / "whole")
    assert not (tmp_path / "run/embeddings").exists()

    embedded.clear()
    with pytest.raises(KeyboardInterrupt):
        evaluate({"dense": dense(3)}, sets(LARGE), tmp_path / "other")
    evaluate({"dense": dense(-1, "other letters")}, sets(LARGE), tmp_path / "other")
    assert embedded == [8, 3, 8] + [8, 3] + [8] * 7 + [5]


def test_kept_embeddings_serve_later_runs(tmp_path: Path) -> None:
    embedded: list[str] = []

    def dense(fingerprint: str, power: float) -> DenseRetriever:
        def embed(texts: Sequence[str], prompt: str | None = None) -> NDArray[np.float32]:
            embedded.append(f"{len(texts)} by {fingerprint}")
            return (letter_counts(texts) + 0.1) ** np.float32(power)

        return DenseRetriever(embed, embed, fingerprint, shard_texts=40)

    def run(name: str, one: RetrievalSet, **retrievers: DenseRetriever) -> dict[str, bytes]:
        embedded.clear()
        evaluate(retrievers, sets(one), tmp_path / name, tmp_path / "kept")
        assert not (tmp_path / name / "embeddings").exists()
        return content(tmp_path / name)

    first = run("first", LARGE, a=dense("a", 1))
    assert embedded == ["11 by a", "40 by a", "21 by a"]
    assert run("again", LARGE, a=dense("a", 1)) == first
    assert embedded == []
    run("other", LARGE, a=dense("b", 2))
    assert embedded == ["11 by b", "40 by b", "21 by b"]
    run("prompt", replace(LARGE, prompt="Find"), a=dense("a", 1))
    assert embedded == ["11 by a"]
    run("renamed", replace(LARGE, name="renamed"), a=dense("a", 1))
    assert embedded == []
    run("longer", replace(LARGE, documents=(*LARGE.documents[:-1], "cat")), a=dense("a", 1))
    assert embedded == ["40 by a", "21 by a"]
    assert run("back", LARGE, a=dense("a", 1)) == first
    evaluate({"a": dense("a", 1)}, sets(LARGE), tmp_path / "apart")
    assert content(tmp_path / "apart") == first


def test_queries_do_not_stand_for_documents(tmp_path: Path) -> None:
    """The same texts, without prompt, but an encoder may cut queries shorter."""
    same = replace(ANIMALS, queries=ANIMALS.documents[:2], documents=ANIMALS.documents[:2])
    one = replace(same, document_ids=("d1", "d2"), qrels={"q1": {"d2": 1}}, prompt=None)
    dense = DenseRetriever(
        lambda texts, _: letter_counts([t[:3] for t in texts]), letter_counts, "letters"
    )
    scores, _ = prepare_search(dense, one, tmp_path)(2)
    products = letter_counts(["cat", "dog"]) @ letter_counts(one.documents).T
    np.testing.assert_array_equal(scores, -np.sort(-products, axis=1))


def test_half_precision_gives_the_metrics_of_full(tmp_path: Path) -> None:
    def embed(texts: Sequence[str], prompt: str | None = None) -> NDArray[np.float32]:
        counts = letter_counts(texts) + 0.01
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    full, half = (
        evaluate(
            {"a": DenseRetriever(embed, embed, "a", half_from=n)}, sets(LARGE), tmp_path / str(n)
        )
        for n in (62, 61)
    )
    assert full == half
