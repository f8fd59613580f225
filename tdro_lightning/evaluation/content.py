"""What an evaluation set consists of, as one digest: only runs on equal sets can be compared."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tdro_lightning.evaluation.benchmark import RetrievalSet

SUM = 2**256


@dataclass
class ContentHasher:
    """Digests of evaluation sets; a corpus that follows itself is read once."""

    _corpus: tuple[Sequence[str], str] | None = field(default=None, init=False)

    def digest(self, one: RetrievalSet) -> str:
        """SHA-256 of all that a set's scores depend on besides the retriever.

        These are the queries, the documents and their ids, the judgements and answers, and what
        counts as a hit. Name, prompt, files, layout and the order of rows are left out, so that
        copies of a set agree.
        """
        if self._corpus is None or self._corpus[0] is not one.documents:
            self._corpus = one.documents, _sum(zip(one.document_ids, one.documents, strict=True))
        content = {
            "documents": self._corpus[1],
            "queries": _sum(zip(one.query_ids, one.queries, strict=True)),
            "qrels": one.qrels,
            "answers": {query: sorted(texts) for query, texts in (one.answers or {}).items()},
            "relevant": one.relevant,
            "skip_own_id": one.skip_own_id,
            "depth": one.depth,
        }
        return hashlib.sha256(_json(content)).hexdigest()


def _sum(pairs: Iterable[tuple[str, str]]) -> str:
    """Number of some pairs and the sum of their digests, whatever their order."""
    count = total = 0
    for identifier, text in pairs:
        key = b"%d:" % len(encoded := identifier.encode()) + encoded + text.encode()
        total += int.from_bytes(hashlib.sha256(key).digest())
        count += 1
    return f"{count} {total % SUM:064x}"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
