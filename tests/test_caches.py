"""Every file of every cache, damaged in every way: what comes out is the same, or refused.

A cache is what the program writes to read it again: embeddings, an index, mined parts, tables in
the cache of `datasets`, losses of a reference.
"""

import gc
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from numpy.typing import NDArray

from tdro_lightning.data.domains import load_domains
from tdro_lightning.data.jsonl import read_rows, write_rows
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.evaluate import evaluate
from tdro_lightning.evaluation.sets.beir import beir_corpus
from tdro_lightning.files import fingerprint
from tdro_lightning.losses.reference_cache import ReferenceLosses
from tdro_lightning.mining import parts
from tdro_lightning.mining.miner import Miner
from tdro_lightning.mining.pool import PoolRanker, corpus_pool, domain_pool, index_pool
from tdro_lightning.mining.rule import MiningRule
from tdro_lightning.models.tokens import Tokens
from tdro_lightning.search.bm25 import BM25Retriever
from tdro_lightning.search.dense import DenseRetriever
from tdro_lightning.search.ivf import IVFRetriever
from tests.damage import damages
from tests.evaluation.hub_copies import write_beir
from tests.evaluation.test_evaluate import LARGE, letter_counts
from tests.made_up import rows

Made = Callable[[Path, int], Any]  # from a cache's folder and a variant to what comes out of it


def embed(texts: Sequence[str], prompt: str | None = None) -> NDArray[np.float32]:
    counts = letter_counts(texts) + 0.1 * np.arange(26, dtype=np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def embeddings(cache: Path, variant: int) -> Any:
    power = 1 + 2 * variant
    dense = DenseRetriever(
        lambda *a: embed(*a) ** power, lambda t: embed(t) ** power, f"{variant}", "cpu"
    )
    one, output = replace(LARGE, prompt=None), cache.with_name("output")
    sets = {one.name: lambda: one}
    metrics = evaluate({"a": replace(dense, shard_texts=31)}, sets, output, cache)
    return metrics, (output / "per_query/a/large.json").read_bytes()


def index(cache: Path, variant: int) -> Any:
    pool = domain_pool(rows(f"made{variant}", 40, overlap=2))
    retriever = IVFRetriever(embed, embed, f"{variant}", shard_texts=200)
    index = index_pool(retriever, pool, cache)
    ranker = PoolRanker(index, retriever.encode_queries(LARGE.queries, None, cache))
    return [values.tolist() for values in ranker.search(range(11), 9)]


def tables(cache: Path, variant: int) -> Any:
    """Rows of a domain with bad ones, a part of another, a pool and an evaluation's corpus."""
    data = cache.with_name(f"data{variant}")
    if not data.exists():
        (data / "set").mkdir(parents=True)
        write_beir(data / "set")
        given = rows(f"made{variant}", 30, overlap=2)
        given[4]["negative_passages"] = []
        write_rows(data / "a.jsonl", [*given, {"query_id": "bad"}])
        write_rows(data / "b.jsonl", given)
    catalogue = {n: {"file": f"{n}.jsonl", "prompts": [], "symmetric": False} for n in "ab"}
    loaded = load_domains(catalogue, root=str(data), hub=None, only=None, rows={"b": 7}, skip=True)
    (whole,) = load_domains(catalogue, root=str(data), hub=None, only=["b"])
    found = [list(domain.table) for domain in (*loaded, loaded[0].with_negatives(), whole)]
    path = data / "set/corpus.jsonl"
    pool, corpus = corpus_pool(path, fingerprint(path)), beir_corpus(data / "set")
    return found, loaded[0].skipped, list(pool.passages), list(corpus.ids), list(corpus.texts)


def losses(cache: Path, variant: int) -> Any:
    given = [[[n], [5], [6, 7]] for n in range(9 - 3 * variant)]  # the variant is an earlier state
    queries = Tokens.of([row[0] for row in given])
    passages = Tokens.of([text for row in given for text in row[1:]])
    known = ReferenceLosses(cache, "1f" * 32, 0.02)
    found, _ = known.get_or_compute(queries, passages, lambda chosen: chosen / 7)
    return found.tolist()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(parts, "PART_ROWS", 8)
    yield
    gc.collect()


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def put(path: Path, content: bytes) -> None:
    path.unlink()  # a table that is still mapped keeps its pages
    path.write_bytes(content)


# Files that may change without a line: nobody reads the one, the other's losses are computed again.
SILENT = ("manifest.json", ".losses")


@pytest.mark.parametrize("make", [embeddings, index, tables, losses])
def test_nothing_damaged_is_used(tmp_path: Path, make: Made, caplog) -> None:
    cache = tmp_path / "cache"
    make(cache, 1)
    others = {path.suffix: path.read_bytes() for path in files(cache)}
    shutil.rmtree(cache)
    expected = make(cache, 0)
    content = {path: path.read_bytes() for path in files(cache)}
    assert make(cache, 0) == expected
    assert {path: path.read_bytes() for path in files(cache)} == content
    assert not caplog.messages
    for path in content:
        for what, damaged in damages(path, others[path.suffix]):
            put(path, damaged)
            caplog.clear()
            assert make(cache, 0) == expected, (path, what)
            warned = any(str(path.parent) in message for message in caplog.messages)
            assert warned or path.name.endswith(SILENT), (path, what)
            if not path.name.endswith(".losses"):
                assert {p: p.read_bytes() for p in files(cache)} == content, (path, what)


def receipt(path: Path) -> Path:
    """The file with the checksum of another."""
    beside = (path.with_suffix(".json"), path.with_name(f"{path.name}.json"))
    return next(p for p in beside if p.exists())


@pytest.mark.parametrize("make", [embeddings, index, tables])
def test_files_exchanged_with_their_checksums_are_not_used(tmp_path: Path, make: Made) -> None:
    """Another file of the cache, also one that was made from other input, under this one's name."""
    cache = tmp_path / "cache"
    expected = make(cache, 0)
    own = [path for path in files(cache) if path.suffix != ".json"]
    make(cache, 1)
    others = [path for path in files(cache) if path.suffix != ".json"]
    for path in own:
        alike = [other for other in others if other.suffix == path.suffix and other != path]
        foreign = [other for other in alike if other not in own]
        for other in (alike[0], foreign[0]):
            put(path, other.read_bytes())
            put(receipt(path), receipt(other).read_bytes())
            assert make(cache, 0) == expected, (path, other)


def miner() -> Miner:
    given = rows("made", 40, overlap=2)
    pool = domain_pool(given)
    queries = [row["query"] for row in given]
    retriever = BM25Retriever()
    index = index_pool(retriever, pool, Path())
    ranker = PoolRanker(index, retriever.encode_queries(queries, None, Path()))
    return Miner(given, pool, ranker, MiningRule(3, 20, skip=1), seed=0)


class Stopped(KeyboardInterrupt):
    """The run is broken off."""


def test_no_damaged_part_is_mined_from(tmp_path: Path, monkeypatch, caplog) -> None:
    one, target, work = miner(), tmp_path / "rows.jsonl", tmp_path / "parts"
    whole = tmp_path / "whole"
    expected = parts.mine_in_parts(one, target, work, {"rows": "sha"}), [*read_rows(target)]
    choose, calls = Miner.choose, iter(range(3))

    def stopping(self: Miner, *given: Any) -> Any:
        if next(calls, None) is None:
            raise Stopped
        return choose(self, *given)

    monkeypatch.setattr(Miner, "choose", stopping)
    with pytest.raises(Stopped):
        parts.mine_in_parts(one, target, work, {"rows": "sha"})
    monkeypatch.setattr(Miner, "choose", choose)
    shutil.copytree(work, whole)
    assert len(files(whole)) == 7
    for path in files(whole):
        older = next(p for p in files(whole) if p.suffix == path.suffix and p != path)
        for what, damaged in damages(path, older.read_bytes()):
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(whole, work)
            (work / path.name).write_bytes(damaged)
            target.unlink(missing_ok=True)
            caplog.clear()
            found = parts.mine_in_parts(one, target, work, {"rows": "sha"}), [*read_rows(target)]
            assert found == expected, (path, what)
            assert any(str(work) in message for message in caplog.messages), (path, what)


def test_a_part_damaged_between_mining_and_merging_is_refused(tmp_path: Path, monkeypatch) -> None:
    one, work = miner(), tmp_path / "parts"
    choose, calls = Miner.choose, iter(range(9))

    def damaging(self: Miner, *given: Any) -> Any:
        if next(calls) == 4:
            path = work / "000001.jsonl"
            path.write_bytes(path.read_bytes().replace(b"positive", b"POSITIVE", 1))
        return choose(self, *given)

    monkeypatch.setattr(Miner, "choose", damaging)
    with pytest.raises(DataError, match=r"000001\.jsonl: is not as it was written"):
        parts.mine_in_parts(one, tmp_path / "rows.jsonl", work, {"rows": "sha"})
    assert not (tmp_path / "rows.jsonl").exists()
