import numpy as np
import pytest

from tdro_lightning.data.characters import normalise
from tdro_lightning.decontamination.evaluation_index import EvaluationIndex, EvaluationText, Match
from tdro_lightning.decontamination.shingles import Shingler

QUERY = "Which river flows through the town of Weimar in Germany?"
CHINESE = "史上獲得最多次奧斯卡最佳女主角獎是誰?"
DOCUMENT = (
    "Weimar The Ilm is a river in Thuringia, Germany, a tributary of the Saale. It rises in the "
    "Thuringian Forest and passes Ilmenau, Stadtilm, Bad Berka and Weimar before it ends."
)
TEXTS = [
    EvaluationText("towns", "query", "q1", QUERY),
    EvaluationText("films", "query", "q2", CHINESE),
    EvaluationText("towns", "document", "d1", DOCUMENT),
    EvaluationText("copy", "document", "d9", f"  {DOCUMENT.upper()}"),
    EvaluationText("films", "query", "q3", "???"),
]


@pytest.fixture(scope="module")
def index() -> EvaluationIndex:
    return EvaluationIndex(TEXTS, simhash_distance=3, jaccard=0.7)


def ids(matches: tuple[Match, ...]) -> list[str]:
    return [match.text.id for match in matches]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (QUERY.upper().replace(" ", "  "), ["q1"]),
        ("in Germany which river flows thruogh the town of Weimar!", ["q1"]),
        ("Weimar, in Germany: which river flows through town", ["q1"]),
        ("最佳女主角獎是誰 史上獲得最多次奧斯卡最", ["q2"]),
        (DOCUMENT.replace("Weimar The", "The").replace(",", " -").lower(), ["d1", "d9"]),
        ("???", ["q3"]),
    ],
)
def test_repetitions_are_found(index: EvaluationIndex, text: str, found: list[str]) -> None:
    (matches,) = index.find([text])
    assert sorted(ids(matches)) == found


@pytest.mark.parametrize(
    "text",
    [
        "Which river flows through the town of Jena?",
        "Which king built the castle of Weimar in Germany?",
        "史上獲得最多次奧斯卡最佳導演獎的電影有哪些?",
        "The Saale is a river in Germany, a tributary of the Elbe. It rises in Bavaria.",
        "!!!",
        "",
    ],
)
def test_what_is_merely_similar_is_not(index: EvaluationIndex, text: str) -> None:
    assert index.find([text]) == [()]


def test_a_number_or_a_year_tells_questions_apart() -> None:
    text = EvaluationText("s", "query", "q", "who won the super bowl 50")
    index = EvaluationIndex([text], 3, 0.7)
    found = index.find([text.text.replace("50", "49"), text.text.replace("won", "wins")])
    assert [ids(matches) for matches in found] == [[], ["q"]]


def test_methods_and_distances(index: EvaluationIndex) -> None:
    edited = "Weimar, in Germany: which river flows through town"
    exact, near = index.find([QUERY, edited])
    assert exact == (Match(TEXTS[0], "exact", 0.0),)
    one, other = Shingler(2)([normalise(QUERY), normalise(edited)]).sets
    distance = round(1 - len(one & other) / len(one | other), 4)
    assert 0 < distance < 0.3
    assert near == (Match(TEXTS[0], "minhash", distance),)
    reordered = " ".join(reversed(QUERY.split()))
    assert index.find([reordered]) == [(Match(TEXTS[0], "simhash", 0.0),)]


def test_every_set_gets_its_nearest_text() -> None:
    texts = [
        EvaluationText("s", "query", "far", QUERY.replace("Germany", "Thuringia")),
        EvaluationText("s", "query", "near", f"{QUERY} please"),
        EvaluationText("s", "query", "same", QUERY.lower()),
        EvaluationText("t", "query", "same too", QUERY),
        EvaluationText("t", "query", "again", QUERY),
    ]
    index = EvaluationIndex(texts, 3, 0.7)
    (matches,) = index.find([QUERY])
    assert [(m.text.set, m.text.id, m.method) for m in matches] == [
        ("s", "same", "exact"),
        ("t", "same too", "exact"),
    ]
    (matches,) = EvaluationIndex(texts[:2], 3, 0.7).find([QUERY])
    assert ids(matches) == ["near"]


def made_up(count: int, random: np.random.Generator) -> list[str]:
    letters = np.array(list("abcdefgh"))
    return [
        " ".join("".join(random.choice(letters, 4)) for _ in range(random.integers(3, 25)))
        for _ in range(count)
    ]


def changed(text: str, random: np.random.Generator) -> str:
    words = text.split()
    words[random.integers(len(words))] = "zzzz"
    return " ".join(random.permutation(words))


@pytest.mark.parametrize(("distance", "jaccard"), [(0, 0.7), (3, 0.8), (7, 0.9)])
def test_all_pairs_are_compared_as_by_brute_force(distance: int, jaccard: float) -> None:
    random = np.random.default_rng(0)
    texts = made_up(200, random)
    asked = [changed(text, random) for text in texts] + made_up(100, random)
    held, given = Shingler(2)(texts), Shingler(2)(asked)
    expected = set()
    for i, own in enumerate(given.sets):
        for j, other in enumerate(held.sets):
            own_hash, other_hash = int(given.simhashes[i]), int(held.simhashes[j])
            if (own_hash ^ other_hash).bit_count() <= distance:
                expected.add((i, j, "simhash"))
            elif len(own & other) >= jaccard * len(own | other):
                expected.add((i, j, "minhash"))
    assert len(expected) > 20
    # Each text is a set of its own, so that all matches are listed.
    index = EvaluationIndex(
        [EvaluationText(str(j), "query", str(j), text) for j, text in enumerate(texts)],
        distance,
        jaccard,
    )
    found = {
        (i, int(match.text.id), match.method)
        for i, matches in enumerate(index.find(asked))
        for match in matches
    }
    assert found <= expected
    assert len(found) >= 0.98 * len(expected)
    assert {one for one in found if one[2] == "simhash"} == {
        one for one in expected if one[2] == "simhash"
    }
