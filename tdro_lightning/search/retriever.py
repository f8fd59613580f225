"""What a retriever offers to the evaluation and the mining; each kind is a file beside this."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Scores and document indices [Q, depth], best first; index -1 is no document.
Hits = tuple[NDArray[np.float32], NDArray[np.int64]]


class Queries(Protocol):
    """Queries as an index takes them: an array of texts, or embeddings in files."""

    def take(self, rows: NDArray[np.int64], /) -> Any:
        """Some queries, in the order of `rows`."""


class Index(Protocol):
    """Documents that can be searched."""

    def search(self, queries: Any, depth: int) -> Hits:
        """The best documents of queries, of which `Queries.take` gave Q."""

    def score(self, queries: Any, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores [P] of P pairs of a query and a text, which need not be a document."""

    def forget(self) -> None:
        """Drop what was kept of earlier pairs, on which the last bits of scores may depend."""


class Retriever(Protocol):
    """Anything that ranks documents for queries. All processes call its methods together."""

    @property
    def fingerprint(self) -> str:
        """What tells its rankings from those of other retrievers."""

    def encode_queries(
        self, texts: Sequence[str], prompt: str | None, folder: Path, name: str = ""
    ) -> Queries:
        """Bring queries into the form that the index takes.

        Args:
            texts: N queries.
            prompt: the instruction before each, for retrievers that read one.
            folder: for files, which later runs may read.
            name: whose queries they are, in messages.
        """

    def index(
        self,
        documents: Sequence[str],
        folder: Path,
        name: str,
        position: Callable[[str], int] | None = None,
    ) -> Index:
        """Index documents.

        Args:
            documents: N texts.
            folder: for files, which later runs may read.
            name: of the documents, in messages.
            position: index of the document that has the same content as a text, -1 for none; its
                stored embedding can be used in `Index.score`.
        """
