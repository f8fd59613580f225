"""Scores of pairs of a query and a text, from embeddings that are read or computed when needed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT_TEXTS = 1 << 15  # half a gigabyte of vectors of 4096 values


class TextScorer(ABC):
    """Inner products with texts that need not be documents.

    Legend: P pairs, N different texts, D values of an embedding, or terms of a sparse one.

    Args:
        embed: texts to embeddings [N, D].
        documents: embeddings of documents, which are read and not computed again; None for none.
        position: index of the document that has the content of a text, -1 for none.
        kept: number of the latest embeddings that are kept, for texts that queries share.
    """

    def __init__(
        self,
        embed: Callable[[Sequence[str]], Any],
        documents: Any = None,
        position: Callable[[str], int] | None = None,
        kept: int = KEPT_TEXTS,
    ) -> None:
        self._embed, self._kept = embed, kept
        self.documents, self._position = documents, position
        self._latest: dict[str, Any] = {}

    def score(self, queries: Any, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores [P] of pairs, from embeddings [P, D] of the queries."""
        if not texts:
            return np.zeros(0, dtype=np.float32)
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        embeddings = self.embeddings(list(rows))[[rows[text] for text in texts]]
        return self.products(queries, embeddings)

    def embeddings(self, texts: Sequence[str]) -> Any:
        """Embeddings [N, D] of N different texts, read where documents have them."""
        if self._position is None:
            return self._computed(texts)
        positions = np.array([self._position(text) for text in texts])
        own = positions >= 0
        parts = [self.documents.take(positions[own])] if own.any() else []
        if not own.all():
            others = [text for text, stored in zip(texts, own, strict=True) if not stored]
            parts.append(self._computed(others))
        order = np.concatenate([np.flatnonzero(own), np.flatnonzero(~own)])
        return self.stack(parts)[np.argsort(order)]

    def forget(self) -> None:
        """Keep no embedding: those that are computed again may differ in their last bits."""
        self._latest.clear()

    @abstractmethod
    def stack(self, parts: Sequence[Any]) -> Any:
        """Embeddings one below the other."""

    @abstractmethod
    def products(self, queries: Any, embeddings: Any) -> NDArray[np.float32]:
        """Inner products [P] of the rows of two [P, D]."""

    @abstractmethod
    def all_products(self, queries: Any, embeddings: Any) -> NDArray[np.float32]:
        """Inner products [Q, P] of every row of [Q, D] with every row of [P, D]."""

    def _computed(self, texts: Sequence[str]) -> Any:
        missing = [text for text in texts if text not in self._latest]
        if missing:
            embedded = self._embed(missing)
            self._latest |= {text: embedded[[row]] for row, text in enumerate(missing)}
        embeddings = self.stack([self._latest[text] for text in texts])
        for text in list(islice(self._latest, max(len(self._latest) - self._kept, 0))):
            del self._latest[text]
        return embeddings
