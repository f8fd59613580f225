"""Fused rankings against sums over documents in plain Python, ranks as exact fractions."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdro_lightning.search.fusion import RULES, Fusion, missing_members
from tdro_lightning.search.retriever import Hits

DOCUMENTS, WIDTH, QUERIES = 9, 6, 3
Ranked = list[tuple[int, float]]  # documents with their scores, best first


def hits(rankings: list[Ranked], width: int = WIDTH) -> Hits:
    scores = np.zeros((len(rankings), width), dtype=np.float32)
    indices = np.full((len(rankings), width), -1, dtype=np.int64)
    for row, ranked in enumerate(rankings):
        for place, (document, score) in enumerate(ranked):
            scores[row, place], indices[row, place] = score, document
    return scores, indices


def without_zeros(ranked: Ranked) -> Ranked:
    """Without zeros at the end."""
    kept = [*ranked]
    while kept and kept[-1][1] == 0:
        kept.pop()
    return kept


def fused_by_hand(members: list[Ranked], rule: str, weights: list[float], depth: int) -> Ranked:
    given: dict[int, list[Any]] = {}
    for member, weight in zip(members, weights, strict=True):
        own = without_zeros(member)
        values = [score for _, score in own]
        for rank, (document, score) in enumerate(own, start=1):
            if rule == "rrf":
                credit: Any = Fraction(1, 60 + rank)
            elif max(values) == min(values):
                credit = weight
            else:
                credit = weight * ((score - min(values)) / (max(values) - min(values)))
            given.setdefault(document, []).append(credit)
    sums = {document: sum(sorted(credits)) for document, credits in given.items()}
    best = sorted(sums, key=lambda document: (-sums[document], document))[:depth]
    return [(document, float(sums[document])) for document in best]


@st.composite
def rankings(draw: st.DrawFn) -> Ranked:
    """Some documents by falling score; equal ones in their order, as every search has them."""
    count = draw(st.integers(0, WIDTH))
    documents = draw(st.permutations(range(DOCUMENTS)))[:count]
    values = st.sampled_from([-2.0, -0.5, 0.0, 0.0, 0.25, 1.0, 3.5, 7.0])
    scores = draw(st.lists(values, min_size=count, max_size=count))
    pairs = zip(documents, scores, strict=True)
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_rankings(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 4), label="members")
    queries = st.lists(rankings(), min_size=QUERIES, max_size=QUERIES)
    members = [data.draw(queries, label=f"member {number}") for number in range(count)]
    rule = data.draw(st.sampled_from([*RULES]), label="rule")
    factors = st.sampled_from([0.25, 0.5, 1.0, 3.0])
    weights = data.draw(st.lists(factors, min_size=count, max_size=count), label="weights")
    depth = data.draw(st.integers(1, 2 * WIDTH), label="depth")
    if rule == "rrf":
        weights = [1.0] * count
    names = tuple("abcd"[:count])
    found = {name: hits(one) for name, one in zip(names, members, strict=True)}
    fusion = Fusion(names, rule, None if rule == "rrf" else tuple(weights))
    scores, indices = fusion.fuse(found, depth)
    for query in range(QUERIES):
        expected = fused_by_hand([one[query] for one in members], rule, weights, depth)
        assert indices[query].tolist() == [
            *(document for document, _ in expected),
            *[-1] * (depth - len(expected)),
        ]
        np.testing.assert_allclose(scores[query, : len(expected)], [s for _, s in expected], 1e-6)
        assert not scores[query, len(expected) :].any()
    backwards = Fusion(names[::-1], rule, None if rule == "rrf" else tuple(weights[::-1]))
    again = backwards.fuse(found, depth)
    np.testing.assert_array_equal(again[1], indices)
    np.testing.assert_array_equal(again[0], scores)


def test_ranks_by_hand() -> None:
    """Document 5 is second twice, and so before those that one member alone has first."""
    members = {"a": hits([[(3, 9), (5, 8), (1, 7)]]), "b": hits([[(2, 0.9), (5, 0.8)]])}
    scores, indices = Fusion(("a", "b")).fuse(members, 4)
    assert indices.tolist() == [[5, 2, 3, 1]]
    np.testing.assert_allclose(scores, [[2 / 62, 1 / 61, 1 / 61, 1 / 63]], 1e-6)


def test_weights_by_hand() -> None:
    """Scores of any scale: the best of each is 1 and the last one 0."""
    members = {"a": hits([[(3, 900), (5, 500), (1, 100)]]), "b": hits([[(1, 0.9), (5, 0.8)]])}
    scores, indices = Fusion(("a", "b"), "weighted", (1, 3)).fuse(members, 4)
    assert indices.tolist() == [[1, 3, 5, -1]]
    np.testing.assert_allclose(scores, [[3, 1, 0.5, 0]])
    alone = {"a": hits([[(7, 4)]]), "b": hits([[]])}
    assert Fusion(("a", "b"), "weighted", (2, 3)).fuse(alone, 1)[0].tolist() == [[2]]


def test_documents_that_only_fill_a_ranking_are_none_of_it() -> None:
    """A search of sparse vectors lists documents without a term of the query, by their order."""
    filled = [(4, 2.0), (0, 0.0), (1, 0.0), (2, 0.0)]
    members = {"sparse": hits([filled]), "other": hits([[(8, 3.0), (2, 1.0)]])}
    for fusion in (Fusion(("sparse", "other")), Fusion(("sparse", "other"), "weighted", (1, 1))):
        assert fusion.fuse(members, 6)[1].tolist() == [[4, 8, 2, -1, -1, -1]]
    below = {"a": hits([[(1, 1.0), (2, 0.0), (3, -1.0)]]), "b": hits([[]])}
    assert Fusion(("a", "b")).fuse(below, 3)[1].tolist() == [[1, 2, 3]]
    empty = {"a": hits([[(0, 0.0), (1, 0.0)]]), "b": hits([[]])}
    assert Fusion(("a", "b")).fuse(empty, 2)[1].tolist() == [[-1, -1]]


def test_rankings_of_different_lengths() -> None:
    members = {"a": hits([[(1, 2.0)], [(2, 1.0)]], width=1), "b": hits([[], [(2, 5.0)]], width=4)}
    assert Fusion(("a", "b")).fuse(members, 2)[1].tolist() == [[1, -1], [2, -1]]


@pytest.mark.parametrize("count", [2, 3])
def test_members_that_are_not_there_are_named(count: int) -> None:
    fusion = Fusion(("bm25", "uniform", "ours")[:count])
    lines = missing_members({"both": fusion}, ["bm25", "dense"])
    assert lines == [
        f"evaluate.fusions.both: there is no retriever {name!r}, only bm25, dense"
        for name in ("uniform", "ours")[: count - 1]
    ]
