"""Sparse vectors that cannot be right: those without a term, and those with nearly all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEARLY_ALL = 0.99  # of the terms: a vector with so many is taken for one with all
NAMED = 5  # texts that are named of each kind
FAULTS = {"empty": "no term", "full": "nearly all terms"}


def faulty_rows(
    counts: NDArray[np.int64], vocabulary: int, ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Number of texts of each of the `FAULTS`, and the ids of the first ones.

    Args:
        counts: terms of each text's vector, [N].
        vocabulary: V.
        ids: of the texts, N.
    """
    faulty = {"empty": counts == 0, "full": counts >= NEARLY_ALL * vocabulary}
    return {
        kind: {
            "count": int(np.count_nonzero(rows)),
            "first": [ids[row] for row in np.flatnonzero(rows)[:NAMED].tolist()],
        }
        for kind, rows in faulty.items()
    }


def vector_warnings(content: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each encoder, set and side with vectors of no term or of nearly all."""
    lines = []
    for encoder, sets in content.items():
        for name, own in sets.items():
            for side, what in (("queries", "finds nothing"), ("documents", "is never found")):
                every = own[side]["texts"]
                for kind, terms in FAULTS.items():
                    if count := own[side][kind]["count"]:
                        ids = ", ".join(map(repr, own[side][kind]["first"]))
                        more = ", ..." if count > len(own[side][kind]["first"]) else ""
                        end = f"; such a text {what}" if kind == "empty" else ""
                        lines.append(
                            f"{encoder} on {name}: {count} of {every} {side} have {terms} in their "
                            f"vectors (ids: {ids}{more}){end}"
                        )
    return lines
