"""Sparse vectors that cannot be right: those without a term, and those with nearly all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEARLY_ALL = 0.99  # of the terms: a vector with so many is taken for one with all
NAMED = 5  # texts that are named of each kind
SETS = 4  # sets that are named in a line
EFFECTS = {"queries": "(they find nothing)", "documents": "(they are never found)"}
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
    """A line for each encoder, side and kind of fault, with the first texts of the first sets.

    Args:
        content: of `sparse_vectors.json`.
    """
    lines = []
    for encoder, sets in content.items():
        for side, effect in EFFECTS.items():
            for kind, terms in FAULTS.items():
                found = {n: own[side] for n, own in sets.items() if own[side][kind]["count"]}
                if found:
                    texts = [_texts(n, own, kind) for n, own in [*found.items()][:SETS]]
                    more = f" and of {len(found) - SETS} more sets" if len(found) > SETS else ""
                    end = f" {effect}" if kind == "empty" else ""
                    lines.append(
                        f"{encoder}: {side} with {terms} in their vectors{end}: "
                        f"{', '.join(texts)}{more}"
                    )
    return lines


def _texts(name: str, own: Mapping[str, Any], kind: str) -> str:
    """`2 of 30 of nq ('q5', 'q7')`."""
    count, first = own[kind]["count"], own[kind]["first"]
    ids = ", ".join(map(repr, first)) + (", ..." if count > len(first) else "")
    return f"{count} of {own['texts']} of {name} ({ids})"
