"""The passages that can become negatives, and where a known passage is among them."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
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
from tdro_lightning.data.fields import check_passage, identifier
from tdro_lightning.data.jsonl import read_objects
from tdro_lightning.data.stored import StoredSequence
from tdro_lightning.data.tables import cached_table, text_columns
from tdro_lightning.errors import DataError


class Places:
    """From keys to places [K] in the pool; of the keys 64-bit hashes are held, 16 bytes for both.

    Args:
        hashes: [K] of `key_hash`; a key may stand several times.
        places: [K] the place of each.
    """

    def __init__(self, hashes: NDArray[np.uint64], places: NDArray[np.int64]) -> None:
        order = np.lexsort((places, hashes))
        self._hashes, self._places = hashes[order], places[order]

    def __getitem__(self, key: str) -> list[int]:
        """The places of a key in ascending order; none where it is unknown."""
        wanted = np.uint64(key_hash(key))
        start = np.searchsorted(self._hashes, wanted, "left")
        return self._places[start : np.searchsorted(self._hashes, wanted, "right")].tolist()


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
    passages: dict[str, Passage] = {}
    docids: dict[str, set[str]] = {}
    normalised = cache(normalise)
    for row in rows:
        for given in chain(row["positive_passages"], row["negative_passages"]):
            key = normalised(passage_text(given))
            # A score belongs to a pair of query and passage, so the pool's passages have none.
            bare = Passage(docid=given["docid"], title=given["title"], text=given["text"])
            passages[key] = min(passages.get(key, bare), bare, key=_order)
            if given["docid"]:
                docids.setdefault(given["docid"], set()).add(key)
    by_text = {key: place for place, key in enumerate(sorted(passages))}
    by_docid = [(docid, by_text[key]) for docid, found in docids.items() for key in found]
    chosen = [passages[key] for key in by_text]
    return Pool(
        chosen,
        [passage_text(p) for p in chosen],
        _places(by_text.items()),
        _places(by_docid),
    )


def corpus_pool(path: Path, content: str) -> Pool:
    """The passages of a corpus file, in its order, left on disk: about 100 bytes of memory each.

    Args:
        path: `.jsonl` or `.jsonl.gz` file of `_id`, `title` and `text`, as BEIR has them.
        content: the file's fingerprint, by which its Arrow copy in the `datasets` cache is found.

    Raises:
        DataError: a line breaks the format, or no passage has a text.
    """
    columns = text_columns("docid", "title", "text")
    table = cached_table(_corpus(path), columns, content)
    texts, docids = np.empty((2, len(table)), dtype=np.uint64)
    whole = np.empty(len(table), dtype=bool)
    for place, passage in enumerate(_stored_passages(table, np.arange(len(table)))):
        texts[place] = key_hash(normalise(passage_text(passage)))
        docids[place] = key_hash(passage["docid"])
        whole[place] = not is_blank(passage["text"])
    lines = np.flatnonzero(whole)
    if not len(lines):
        raise DataError(f"{path}: no passage with a text in it")
    _, first, group = np.unique(texts[lines], return_index=True, return_inverse=True)
    kept = np.sort(first)
    passages = _stored_passages(table, lines[kept])
    return Pool(
        passages,
        StoredSequence(len(kept), lambda places: [*map(passage_text, passages[places])]),
        Places(texts[lines[kept]], np.arange(len(kept))),
        Places(docids[lines], np.searchsorted(kept, first[group])),
        left_out=len(table) - len(lines),
    )


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


def _places(pairs: Collection[tuple[str, int]]) -> Places:
    hashes = np.array([key_hash(key) for key, _ in pairs], dtype=np.uint64)
    return Places(hashes, np.array([place for _, place in pairs], dtype=np.int64))


def _order(passage: Passage) -> tuple[bool, str, str, str]:
    return not passage["docid"], passage["docid"], passage["title"], passage["text"]


def _corpus(path: Path) -> Iterator[dict[str, Any]]:
    place = None
    for place, value in read_objects(path):
        docid = identifier(value, "_id", place)
        given = {"docid": docid, "title": value.get("title"), "text": value.get("text")}
        yield dict(check_passage(given, place, empty=True))
    if place is None:
        raise DataError(f"{path}: no passages in it")
