"""Rankings of several retrievers fused into one, by ranks or by scores.

Legend: M members, Q queries, K documents of a member's ranking.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.search.retriever import Hits

RANK_CONSTANT = 60  # of reciprocal ranks (Cormack, Clarke and Buettcher, SIGIR 2009)

# From a ranking's scores [Q, K] and where it has a document [Q, K] to what each document gets.
Credit = Callable[[NDArray[np.float32], NDArray[np.bool_]], NDArray[np.float64]]


def reciprocal_ranks(scores: NDArray[np.float32], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 / (60 + rank), with ranks from 1."""
    ranks = np.arange(1, scores.shape[1] + 1, dtype=np.float64)
    return np.broadcast_to(1 / (RANK_CONSTANT + ranks), scores.shape)


def normalised_scores(scores: NDArray[np.float32], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Scores moved and scaled to 0 to 1, for each query by itself; 1 where all are equal."""
    wide = scores.astype(np.float64)
    least = np.where(found, wide, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    most = np.where(found, wide, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    equal = ~(most > least)  # also where there is no document
    least, most = np.where(equal, 0.0, least), np.where(equal, 1.0, most)
    return np.where(equal, 1.0, (wide - least) / (most - least))


# By the name that the configuration gives.
RULES: dict[str, Credit] = {"rrf": reciprocal_ranks, "weighted": normalised_scores}


@dataclass(frozen=True)
class Fusion:
    """Retrievers whose rankings become one.

    Attributes:
        members: their labels, two or more.
        rule: of `RULES`.
        weights: factor of each member; None is 1 for all.
    """

    members: tuple[str, ...]
    rule: str = "rrf"
    weights: tuple[float, ...] | None = None

    def fuse(self, rankings: Mapping[str, Hits], depth: int) -> Hits:
        """The ranking of the members' documents by the sum of what each member gives them.

        A member gives nothing to a document that is not in its ranking. A ranking that ends in
        scores of 0 ends before them: it says nothing of these documents, which were found only
        because a search of sparse vectors fills its depth in the order of the documents. Documents
        of equal sums are ordered by index; the order of the members does not matter.

        Args:
            rankings: of each member by its label, of the same Q queries, best first; index -1 is no
                document and has none behind it.
            depth: columns of the result.

        Returns:
            Scores [Q, depth] and document indices [Q, depth], as `Index.search` returns them.
        """
        parts = [rankings[label] for label in self.members]
        found = [ranked_documents(*part) for part in parts]
        weights = self.weights or (1.0,) * len(parts)
        credits = [
            weight * RULES[self.rule](scores, own)
            for weight, (scores, _), own in zip(weights, parts, found, strict=True)
        ]
        count = len(parts[0][0])
        fused = np.zeros((count, depth), dtype=np.float32)
        indices = np.full((count, depth), -1, dtype=np.int64)
        for query in range(count):
            own = [one[query] for one in found]
            documents, sums = sum_by_document(
                np.concatenate([part[1][query][k] for part, k in zip(parts, own, strict=True)]),
                np.concatenate([one[query][k] for one, k in zip(credits, own, strict=True)]),
            )
            best = np.argsort(-sums, kind="stable")[:depth]
            fused[query, : len(best)], indices[query, : len(best)] = sums[best], documents[best]
        return fused, indices


def ranked_documents(scores: NDArray[np.float32], indices: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where a ranking [Q, K] has a document, without those of score 0 at its end."""
    other = (indices >= 0) & (scores != 0)
    # Of each place: the number of such documents there and behind it.
    behind = np.cumsum(other[:, ::-1], axis=1)[:, ::-1]
    return (indices >= 0) & (behind > 0)


def sum_by_document(
    documents: NDArray[np.int64], credits: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Different documents [N], ascending, and the sum of each one's credits [N].

    The credits of a document are added from the least on, so that equal ones have equal sums.
    """
    if not len(documents):
        return documents, credits
    order = np.lexsort((credits, documents))
    documents, credits = documents[order], credits[order]
    starts = np.flatnonzero(np.diff(documents, prepend=-1))
    return documents[starts], np.add.reduceat(credits, starts)


def missing_members(fusions: Mapping[str, Fusion], labels: Sequence[str]) -> list[str]:
    """A line for each member of a fusion that no retriever has the label of."""
    return [
        f"evaluate.fusions.{name}: there is no retriever {label!r}, only {', '.join(labels)}"
        for name, fusion in fusions.items()
        for label in fusion.members
        if label not in labels
    ]
