"""What retrievers find in a pool for the queries of rows, and how they score texts for these."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.data.characters import normalise
from tdro_lightning.errors import DataError
from tdro_lightning.mining.pool import Pool
from tdro_lightning.models.cross_encoder import CrossEncoder
from tdro_lightning.search.dense import DenseScorer
from tdro_lightning.search.retriever import Hits, Index, Queries, Retriever


def index_pool(retriever: Retriever, pool: Pool, folder: Path, name: str = "the pool") -> Index:
    """Index a pool's passages; all processes together, keeping files in a folder.

    Args:
        retriever: that searches the pool.
        pool: of passages.
        folder: for files, which later runs may read.
        name: of the pool, in messages.
    """

    def position(text: str) -> int:
        return min(pool.by_text[normalise(text)], default=-1)

    return retriever.index(pool.texts, folder, name, position)


@dataclass(frozen=True)
class PairScorer:
    """Scores of pairs of a row's query and a text.

    Attributes:
        model: scores pairs of queries and texts.
        queries: of all rows, as the model takes them.
    """

    model: Index | DenseScorer | CrossEncoder
    queries: Queries

    def score(self, rows: Sequence[int], texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores [P] of P texts, each for the query of one row.

        Raises:
            DataError: a score is NaN or infinite.
        """
        scores = self.model.score(self.queries.take(np.array(rows, dtype=np.int64)), texts)
        broken = np.count_nonzero(~np.isfinite(scores))
        if broken:
            raise DataError(f"{broken} of {len(scores)} scores are not finite")
        return scores

    def forget(self) -> None:
        """Let later scores depend on no earlier ones; a cross-encoder's never do."""
        if not isinstance(self.model, CrossEncoder):
            self.model.forget()


@dataclass(frozen=True)
class PoolRanker(PairScorer):
    """An indexed pool with the queries of rows."""

    model: Index

    def search(self, rows: Sequence[int], depth: int) -> Hits:
        """The best passages of some rows' queries."""
        return self.model.search(self.queries.take(np.array(rows, dtype=np.int64)), depth)
