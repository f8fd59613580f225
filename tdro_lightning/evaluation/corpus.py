"""Corpora of any size: titles and texts lie in a memory-mapped table and are read when needed.

The libraries of tables are imported with the first corpus: a chain with nothing to do needs none.
"""

import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tdro_lightning.data.characters import is_blank
from tdro_lightning.data.example import Passage, passage_text
from tdro_lightning.data.stored import StoredSequence
from tdro_lightning.distributed.processes import from_first, is_first_process
from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint

# Of what is refused and stored: tables in the cache that were made otherwise are not used.
CORPUS_VERSION = 2
BROKEN_SHARE = 0.01  # published sets have a few empty documents and dangling judgements; not more

logger = logging.getLogger(__name__)


class Document(NamedTuple):
    """A document as a file has it; `place` says where, for messages."""

    place: str
    id: str
    title: str
    text: str


class Corpus(NamedTuple):
    """Ids and texts of the documents; what is read of them is in memory, and nothing else."""

    ids: Sequence[str]
    texts: Sequence[str]


def document_text(title: str, text: str) -> str:
    """Title and text as one, without white space around them."""
    return passage_text(Passage(docid="", title=title, text=text)).strip()


def stored_corpus(documents: Callable[[], Iterable[Document]], source: Path, layout: str) -> Corpus:
    """The corpus of some documents, as a table in the cache of `datasets`.

    Called by all processes together. Documents without title and text stay in it, as in the
    published corpora.

    The table takes as much disk as the texts do. The check of the ids takes 9 bytes of memory a
    document while the table is made, and nothing else grows with the corpus. Mapped pages count as
    the process's memory, but the system takes them back when it needs them.

    Args:
        documents: gives the documents, from the first on, each time it is called.
        source: the file or folder that they are read from.
        layout: how they are read from it.

    Raises:
        DataError: an id is a duplicate, there are no documents, over 1 % of them are empty, or as
            `documents` does.
    """
    from tdro_lightning.data.tables import cached_table, text_columns

    content = from_first(
        f"{layout} {CORPUS_VERSION} {fingerprint(source)}" if is_first_process() else ""
    )
    checked = _checked(documents, str(source))
    table = cached_table(checked, text_columns("id", "title", "text"), content).data.table

    def read_texts(rows: slice) -> list[str]:
        columns = [table[name][rows].to_pylist() for name in ("title", "text")]
        return [document_text(title, text) for title, text in zip(*columns, strict=True)]

    ids = StoredSequence[str](len(table), lambda rows: table["id"][rows].to_pylist())
    return Corpus(ids, StoredSequence(len(table), read_texts))


def _checked(documents: Callable[[], Iterable[Document]], place: str) -> Iterator[dict[str, str]]:
    hashes, empty = array("q"), array("q")
    for number, document in enumerate(documents()):
        hashes.append(hash(document.id))
        if is_blank(document.title) and is_blank(document.text):
            empty.append(number)
        yield {"id": document.id, "title": document.title, "text": document.text}
    if not hashes:
        raise DataError(f"{place}: no documents in it")
    if len(empty) > BROKEN_SHARE * len(hashes):
        first = next(islice(documents(), empty[0], None)).id
        raise DataError(
            f"{place}: document {first!r} has neither title nor text, "
            f"like {len(empty)} of {len(hashes)}"
        )
    if empty:
        logger.warning("%s: %d documents without title and text", place, len(empty))
    ordered = np.frombuffer(hashes, dtype=np.int64)
    ordered.sort()
    alike = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if alike:
        _refuse_twins(document for document in documents() if hash(document.id) in alike)


def _refuse_twins(suspects: Iterable[Document]) -> None:
    seen: set[str] = set()
    for document in suspects:
        if document.id in seen:
            raise DataError(f"{document.place}: document {document.id!r} is a duplicate")
        seen.add(document.id)
