"""The passages that can become negatives, and how retrievers rank and score them for rows."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from tdro_lightning.data.characters import is_blank, normalise
from tdro_lightning.data.example import Passage, Row, passage_text
from tdro_lightning.data.stored import ITEMS_AT_ONCE, StoredSequence
from tdro_lightning.data.tables import cached_table, text_columns
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.sets.beir import read_documents
from tdro_lightning.models.cross_encoder import CrossEncoder
from tdro_lightning.search.retriever import Hits, Index, Queries, Retriever
from tdro_lightning.search.scorer import TextScorer


class Places:
    """From keys to places [K] in the pool; of the keys 64-bit hashes are held, 16 bytes for both.

    Args:
        hashes: [K] of `key_hash`; a key may stand several times.
        places: [K] the place of each.
    """

    def __init__(self, hashes: NDArray[np.uint64], places: NDArray[np.int64]) -> None:
        order = np.argsort(hashes)
        self._hashes, self._places = hashes[order], places[order]

    def __getitem__(self, key: str) -> list[int]:
        """The places of a key in ascending order; none where it is unknown."""
        wanted = np.uint64(key_hash(key))
        start = np.searchsorted(self._hashes, wanted, "left")
        end = np.searchsorted(self._hashes, wanted, "right")
        return np.unique(self._places[start:end]).tolist()


@dataclass(frozen=True)
class Pool:
    """Passages of which no two have the same normalised text.

    Attributes:
        passages, texts: what stands at each place, and title and text of it.
        by_text: places by normalised text.
        by_docid: places by docid, also of passages that only repeat another's text.
        left_out: passages without a text of their own, which cannot be negatives.
    """

    passages: Sequence[Passage]
    texts: Sequence[str]
    by_text: Places
    by_docid: Places
    left_out: int = 0

    def places(self, passage: Passage) -> set[int]:
        """The places with this passage's docid or normalised text."""
        found = self.by_text[normalise(passage_text(passage))]
        return {*found, *(self.by_docid[passage["docid"]] if passage["docid"] else ())}


def domain_pool(rows: Sequence[Row]) -> Pool:
    """All passages of a domain's rows, in an order that does not depend on the rows' order."""
    normalised = cache(normalise)
    # Of equal texts the first stays, one with a docid before others. A score belongs to a pair of
    # query and passage, so the pool's passages have none.
    found = {
        (normalised(passage_text(p)), not p["docid"], p["docid"], p["title"], p["text"])
        for row in rows
        for p in chain(row["positive_passages"], row["negative_passages"])
    }
    passages = [Passage(docid=key[2], title=key[3], text=key[4]) for key in sorted(found)]
    texts, docids = _hashes(passages)
    kept, places = _distinct(texts)
    chosen = [passages[i] for i in kept]
    return Pool(
        chosen,
        [passage_text(passage) for passage in chosen],
        Places(texts[kept], np.arange(len(kept))),
        Places(docids, places),
    )


def corpus_pool(path: Path, content: str) -> Pool:
    """The passages of a corpus file, in its order, left on disk: about 100 bytes of memory each.

    Args:
        path: `.jsonl` or `.jsonl.gz` file of `_id`, `title` and `text`, as BEIR has them.
        content: the file's fingerprint, by which its Arrow copy in the `datasets` cache is found.

    Raises:
        DataError: a line breaks the format, or no passage has a text.
    """
    table = cached_table(_corpus(path), text_columns("docid", "title", "text"), content)
    is_whole = (not is_blank(text) for part in table.iter(ITEMS_AT_ONCE) for text in part["text"])
    lines = np.flatnonzero(np.fromiter(is_whole, dtype=bool, count=len(table)))
    if not len(lines):
        raise DataError(f"{path}: no passage with a text in it")
    texts, docids = _hashes(_stored_passages(table, lines))
    kept, places = _distinct(texts)
    passages = _stored_passages(table, lines[kept])
    return Pool(
        passages,
        StoredSequence(len(kept), lambda rows: [*map(passage_text, passages[rows])]),
        Places(texts[kept], np.arange(len(kept))),
        Places(docids, places),
        left_out=len(table) - len(lines),
    )


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

    model: Index | TextScorer | CrossEncoder
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


def _stored_passages(table: datasets.Dataset, lines: NDArray[np.int64]) -> Sequence[Passage]:
    """Some lines [N] of a memory-mapped table, as passages."""

    def read(places: slice) -> list[Passage]:
        columns = table[lines[places]]
        values = zip(columns["docid"], columns["title"], columns["text"], strict=True)
        return [Passage(docid=docid, title=title, text=text) for docid, title, text in values]

    return StoredSequence(len(lines), read)


def key_hash(key: str) -> int:
    """The first 64 bits of a text's BLAKE2b hash."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest())


def _hashes(passages: Sequence[Passage]) -> NDArray[np.uint64]:
    """Hashes [2, N] of the normalised texts and the docids."""
    hashes = np.empty((2, len(passages)), dtype=np.uint64)
    for i, passage in enumerate(passages):
        hashes[:, i] = key_hash(normalise(passage_text(passage))), key_hash(passage["docid"])
    return hashes


def _distinct(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending first indices of the different hashes, and for every hash its place among them."""
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    kept = np.sort(first)
    return kept, np.searchsorted(kept, first[group])


def _corpus(path: Path) -> Iterator[dict[str, Any]]:
    document = None
    for document in read_documents([path], "_id"):
        yield {"docid": document.id, "title": document.title, "text": document.text}
    if document is None:
        raise DataError(f"{path}: no passages in it")
