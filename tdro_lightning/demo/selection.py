"""Training and evaluation sides, and distinct pairs among those of one domain."""

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np

from tdro_lightning.demo.domains import Pair

EVALUATION_SHARE = 0.3


def normalised(text: str) -> str:
    """The words of `text` in lower case: what two texts share when they count as the same."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def split(pairs: Iterable[Pair]) -> tuple[list[Pair], list[Pair]]:
    """(training pairs, evaluation pairs) by a hash of each pair's group."""
    train: list[Pair] = []
    held_out: list[Pair] = []
    for pair in pairs:
        digest = hashlib.sha256(pair.group.encode()).digest()
        part = int.from_bytes(digest[:8]) / 2**64
        (held_out if part < EVALUATION_SHARE else train).append(pair)
    return train, held_out


def distinct(pairs: Sequence[Pair], limit: int, used: set[str], seed: int) -> list[Pair]:
    """Up to `limit` pairs in a seeded order, no query and no document twice.

    A pair is left out where its query or document is in `used` or where the two are equal. The
    texts that count as equal are those of `normalised`.
    """
    queries: set[str] = set()
    documents: set[str] = set()
    kept: list[Pair] = []
    for i in np.random.default_rng(seed).permutation(len(pairs)):
        query, document = keys(pairs[i])
        if len(kept) == limit:
            break
        if query == document or query in queries or document in documents:
            continue
        if query not in used and document not in used:
            queries.add(query)
            documents.add(document)
            kept.append(pairs[i])
    return kept


def keys(pair: Pair) -> tuple[str, str]:
    """Query and document of a pair, normalised."""
    return normalised(pair.query), normalised(pair.document)
