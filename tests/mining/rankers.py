"""Retrievers over a pool, for the queries of its rows."""

from collections.abc import Sequence
from pathlib import Path

from tdro_lightning.mining.pool import Pool, PoolRanker, index_pool
from tdro_lightning.search.bm25 import BM25Retriever
from tdro_lightning.search.retriever import Retriever


def pool_ranker(
    retriever: Retriever, pool: Pool, queries: Sequence[str], prompt: str | None, folder: Path
) -> PoolRanker:
    """Index the pool in `pool` below a folder, and encode the queries below it."""
    index = index_pool(retriever, pool, folder / "pool")
    return PoolRanker(index, retriever.encode_queries(queries, prompt, folder))


def bm25_ranker(pool: Pool, queries: Sequence[str]) -> PoolRanker:
    """BM25, which writes no files."""
    return pool_ranker(BM25Retriever(), pool, queries, None, Path())
