import math

import numpy as np
import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.search.bm25 import BM25, analyse

DOCUMENTS = [
    "Cats chase mice. A cat sleeps.",
    "Dogs chase cats",
    "The weather in Paris",
    "cats chase dogs",
    "",
]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The running dogs, and the CATS!", ["run", "dog", "cat"]),
        ("ｆｕｌｌ width ﬁne", ["full", "width", "fine"]),
        ("fit_sample v1.2 state-of-the-art", ["fit", "sampl", "v1", "2", "state", "art"]),
        ("諷刺常採用", ["諷刺", "刺常", "常採", "採用"]),
        ("在 Paris市", ["在", "pari", "市"]),
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("서울은 수도", ["서울", "울은", "수도"]),
        ("ก่อน", ["ก่", "่อ", "อน"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("... !", []),
        ("co\u00adoperation co\u200boperation co\u2060operation", ["cooper"] * 3),
        ("\ufeffcat\u200e s\u200cun \U000e0041moon", ["cat", "sun", "moon"]),
        ("caf\u200de\u0301 star\ufe0f", ["café", "star"]),
        ("क\u094d\u200dष", ["क\u094dष"]),
        ("諷\u200b刺", ["諷刺"]),
        # Khmer divides its words so, and Thai and Lao may.
        ("ភាសា\u200bខ្មែរ", ["ភាសា", "ខ្មែរ"]),
        ("ก่อน\u200bไป", ["ก่", "่อ", "อน", "ไป"]),
        ("", []),
    ],
)
def test_analyse(text: str, terms: list[str]) -> None:
    assert analyse(text) == terms


def bm25_by_hand(query: str, documents: list[str]) -> np.ndarray:
    terms = [analyse(document) for document in documents]
    mean = sum(map(len, terms)) / len(terms)
    scores = np.zeros(len(documents))
    for term in analyse(query):
        holders = sum(term in document for document in terms)
        idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
        for place, document in enumerate(terms):
            count = document.count(term)
            scores[place] += idf * count / (count + 0.9 * (1 - 0.4 + 0.4 * len(document) / mean))
    return scores


@pytest.mark.parametrize("query", ["cats", "dogs chase", "cat cat paris", "weather of mice"])
def test_scores_follow_the_formula(query: str) -> None:
    expected = bm25_by_hand(query, DOCUMENTS)
    scores, indices = BM25(DOCUMENTS).search([query], 5)
    hits = int((expected > 0).sum())
    order = sorted(range(5), key=lambda place: (-round(expected[place], 6), place))[:hits]
    assert indices[0].tolist() == order + [-1] * (5 - hits)
    np.testing.assert_allclose(scores[0, :hits], expected[order], rtol=1e-5)
    assert not scores[0, hits:].any()


def test_shapes_types_and_padding_beyond_the_documents() -> None:
    scores, indices = BM25(DOCUMENTS).search(["cats", "nothing known", "the"], 8)
    assert scores.shape == indices.shape == (3, 8)
    assert scores.dtype == np.float32
    assert indices.dtype == np.int64
    assert (indices[1:] == -1).all()
    assert not scores[1:].any()
    assert BM25(DOCUMENTS).search([], 3)[1].shape == (0, 3)


@pytest.mark.parametrize("depth", [1, 3, 10, 39, 40])
def test_ties_go_to_the_lower_index(depth: int) -> None:
    documents = ["same words here"] * 40
    documents[17] = "words"
    _, indices = BM25(documents).search(["words"], depth)
    expected = [17] + [place for place in range(40) if place != 17]
    assert indices[0].tolist() == expected[:depth]


def test_documents_without_terms() -> None:
    _, indices = BM25(["", "the"]).search(["the cat"], 2)
    assert indices.tolist() == [[-1, -1]]


def test_no_documents_and_no_depth() -> None:
    with pytest.raises(DataError, match="at least one document"):
        BM25([])
    with pytest.raises(ValueError, match="depth must be at least 1, is 0"):
        BM25(DOCUMENTS).search(["cats"], 0)


def test_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    BM25(DOCUMENTS).search(["cats"], 2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("query", ["cats", "cat cat paris", "weather of unknown mice", "unknown"])
def test_texts_score_like_indexed_documents(query: str) -> None:
    expected = bm25_by_hand(query, DOCUMENTS)
    scores = BM25(DOCUMENTS).score([query] * 5, DOCUMENTS)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert scores.dtype == np.float32


def test_other_texts_score_by_the_documents_statistics() -> None:
    mean = sum(len(analyse(document)) for document in DOCUMENTS) / 5
    text, length = "mice and unknown mice", 3
    idf = math.log(1 + (5 - 1 + 0.5) / (1 + 0.5))
    expected = idf * 2 / (2 + 0.9 * (1 - 0.4 + 0.4 * length / mean))
    scores = BM25(DOCUMENTS).score(["unknown mice"] * 2, ["", text])
    np.testing.assert_allclose(scores, [0, expected], rtol=1e-5)


def test_nothing_scores_where_no_document_has_a_term() -> None:
    assert BM25(["the", "of"]).score(["the mice"], ["mice"]).tolist() == [0]
