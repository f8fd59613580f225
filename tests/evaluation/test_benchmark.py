"""A set's digest: equal for copies of a set, another for everything that changes its scores."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdro_lightning.evaluation.benchmark import ContentHasher, RetrievalSet
from tdro_lightning.evaluation.sets.set_files import Location, SetFiles, lazy_sets
from tests.evaluation.hub_copies import (
    write_beir,
    write_hub_lines,
    write_hub_tables,
    write_mkqa,
    write_mkqa_tables,
)
from tests.evaluation.test_evaluate import ANIMALS, LARGE


def digest(dataset: RetrievalSet) -> str:
    return ContentHasher().digest(dataset)


CHANGES = {
    "a query": {"queries": ("cats", "a horse")},
    "a query's id": {"query_ids": ("q1", "q3"), "qrels": {"q1": {"d2": 1}, "q3": {"d3": 1}}},
    "queries exchanged": {"queries": ANIMALS.queries[::-1]},
    "a document": {"documents": (*ANIMALS.documents[:2], "birds sing.")},
    "documents exchanged": {"documents": ANIMALS.documents[::-1]},
    "a document's id": {"document_ids": ("d1", "d2", "d4")},
    "a document less": {"documents": ANIMALS.documents[:2], "document_ids": ("d1", "d2")},
    "a letter from id to text": {
        "document_ids": ("d1", "d2", "d3b"),
        "documents": (*ANIMALS.documents[:2], "irds sing"),
    },
    "a grade": {"qrels": {"q1": {"d2": 2}, "q2": {"d3": 1}}},
    "a judgement more": {"qrels": {"q1": {"d2": 1}, "q2": {"d3": 1, "d1": 0}}},
    "an answer": {"answers": {"q1": ("cats",), "q2": ("horse",)}},
    "no answers": {"answers": None},
    "what is relevant": {"relevant": 2},
    "the depth": {"depth": 10},
    "the query itself": {"skip_own_id": True},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_scores_changes_the_digest(change: str) -> None:
    assert digest(replace(ANIMALS, **CHANGES[change])) != digest(ANIMALS)


@given(st.permutations(range(len(LARGE.documents))), st.permutations(range(len(LARGE.queries))))
def test_name_prompt_and_order_do_not(documents: list[int], queries: list[int]) -> None:
    other = replace(
        LARGE,
        name="other",
        prompt=None,
        documents=[LARGE.documents[i] for i in documents],
        document_ids=[LARGE.document_ids[i] for i in documents],
        queries=tuple(LARGE.queries[i] for i in queries),
        query_ids=tuple(LARGE.query_ids[i] for i in queries),
        qrels=dict(sorted(LARGE.qrels.items(), reverse=True)),
    )
    assert digest(other) == digest(LARGE)


def test_by_hand() -> None:
    def summed(ids: tuple[str, ...], texts: tuple[str, ...]) -> str:
        digests = (
            hashlib.sha256(f"{len(i)}:{i}{t}".encode()).hexdigest()
            for i, t in zip(ids, texts, strict=True)
        )
        return f"{len(ids)} {sum(int(d, 16) for d in digests) % 2**256:064x}"

    content = {
        "answers": {"q1": ["cats"], "q2": ["horses"]},
        "depth": 100,
        "documents": summed(("d1", "d2", "d3"), ("cats sleep", "dogs bark at cats", "birds sing")),
        "qrels": {"q1": {"d2": 1}, "q2": {"d3": 1}},
        "queries": summed(("q1", "q2"), ("cats", "horses")),
        "relevant": 1,
        "skip_own_id": False,
    }
    expected = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    assert digest(ANIMALS) == expected


def published(layout: str, questions: Path, corpus: Path, language: str | None) -> RetrievalSet:
    places = Location(questions, None), Location(corpus, None)
    one = SetFiles("one", layout, *places, "test", language, None, 1, False, 9)
    return lazy_sets([one])["one"]()


@pytest.mark.parametrize(
    ("layout", "writers"),
    [
        ("beir", (write_beir, write_hub_lines, write_hub_tables)),
        ("mkqa", (write_mkqa, write_mkqa_tables)),
    ],
)
def test_copies_in_other_layouts_agree(
    tmp_path: Path, layout: str, writers: tuple[Callable[[Path], None], ...]
) -> None:
    found = set()
    for writer in writers:
        folder = tmp_path / writer.__name__
        folder.mkdir()
        writer(folder)
        if layout == "mkqa":
            one = published(layout, folder / "mkqa", folder / "nq", "en")
        else:
            one = published(layout, folder, folder, None)
        found.add(digest(one))
    assert len(found) == 1


def test_a_corpus_that_sets_share_is_read_once() -> None:
    class Read(tuple[str, ...]):
        times = 0

        def __iter__(self):
            Read.times += 1
            return super().__iter__()

    one = replace(ANIMALS, documents=Read(ANIMALS.documents))
    content = ContentHasher()
    first, second = content.digest(one), content.digest(replace(one, name="two", depth=7))
    assert Read.times == 1
    assert (first, second) == (
        digest(ANIMALS),
        digest(replace(ANIMALS, depth=7)),
    )
    assert content.digest(LARGE) == digest(LARGE)
