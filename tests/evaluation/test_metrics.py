import math
import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.metrics import answer_accuracy, average, score


def ndcg_by_hand(order: list[str], grades: dict[str, int]) -> float:
    discounts = 1 / np.log2(np.arange(2, 12))
    gains = np.array([max(grades.get(document, 0), 0) for document in order[:10]])
    best = np.array(sorted((max(g, 0) for g in grades.values()), reverse=True)[:10])
    ideal = float(best @ discounts[: len(best)])
    return float(gains @ discounts[: len(gains)]) / ideal if ideal else 0.0


def test_agrees_with_numpy_on_random_runs() -> None:
    generator = np.random.default_rng(0)
    run, qrels = {}, {}
    for query in map(str, range(200)):
        found = generator.permutation(300)[: generator.integers(1, 150)]
        # Few distinct scores, so that most runs hold ties.
        values = np.sort(generator.integers(-5, 6, len(found)))[::-1] / 4
        run[query] = {f"d{d}": float(v) for d, v in zip(found, values, strict=True)}
        judged = generator.permutation(300)[: generator.integers(1, 40)]
        qrels[query] = {f"d{d}": int(generator.integers(-1, 4)) for d in judged}
    values = score(run, qrels)
    assert list(values) == list(qrels)
    for query, grades in qrels.items():
        order = list(run[query])
        relevant = {document for document, grade in grades.items() if grade >= 1}
        first = next((r for r, d in enumerate(order[:10], start=1) if d in relevant), math.inf)
        recall = len(relevant & set(order[:100])) / len(relevant) if relevant else 0.0
        assert values[query] == pytest.approx(
            {
                "ndcg@10": ndcg_by_hand(order, grades),
                "recall@100": recall,
                "mrr@10": 1 / first,
            },
            abs=1e-9,
        )


def test_order_of_the_run_does_not_matter_without_ties() -> None:
    qrels = {"q": {"b": 1}}
    values = score({"q": {"a": 0.5, "b": 0.75, "c": -1.0}}, qrels)
    assert values == {"q": {"ndcg@10": 1.0, "recall@100": 1.0, "mrr@10": 1.0}}
    assert values == score({"q": {"c": -1.0, "b": 0.75, "a": 0.5}}, qrels)


@pytest.mark.parametrize("names", [("a", "z"), ("z", "a")])
def test_ties_keep_the_order_of_the_run(names: tuple[str, str]) -> None:
    values = score({"q": dict.fromkeys(names, 1.0)}, {"q": {names[1]: 1}})["q"]
    assert values["mrr@10"] == 0.5
    assert values["ndcg@10"] == pytest.approx(1 / math.log2(3), abs=1e-12)


def test_every_judged_query_counts_and_no_other() -> None:
    nothing = {"ndcg@10": 0.0, "recall@100": 0.0, "mrr@10": 0.0}
    qrels = {"missing": {"a": 1}, "empty": {"a": 1}, "irrelevant": {"a": 0}}
    run = {"empty": {}, "irrelevant": {"a": 1.0}, "unjudged": {"a": 1.0}}
    assert score(run, qrels) == dict.fromkeys(qrels, nothing)
    assert score({}, qrels) == dict.fromkeys(qrels, nothing)


def test_cutoffs() -> None:
    run = {"q": {f"d{rank}": -float(rank) for rank in range(1, 121)}}
    assert score(run, {"q": {"d11": 1, "d100": 1, "d101": 1}})["q"] == pytest.approx(
        {"ndcg@10": 0.0, "recall@100": 2 / 3, "mrr@10": 0.0}
    )


@pytest.mark.parametrize("relevant", [1, 2, 3])
def test_lowest_relevant_grade_and_depth(relevant: int) -> None:
    generator = np.random.default_rng(relevant)
    run, qrels = {}, {}
    for query in map(str, range(40)):
        found = generator.permutation(1500)[: generator.integers(1, 1200)]
        run[query] = {f"d{d}": -float(rank) for rank, d in enumerate(found)}
        judged = generator.permutation(1500)[:60]
        qrels[query] = {f"d{d}": int(generator.integers(0, 4)) for d in judged}
    values = score(run, qrels, relevant=relevant, depth=1000)
    for query, grades in qrels.items():
        order = list(run[query])
        wanted = {document for document, grade in grades.items() if grade >= relevant}
        first = next((r for r, d in enumerate(order[:10], start=1) if d in wanted), math.inf)
        assert values[query] == pytest.approx(
            {
                "ndcg@10": ndcg_by_hand(order, grades),
                "recall@100": len(wanted & set(order[:100])) / len(wanted),
                "recall@1000": len(wanted & set(order[:1000])) / len(wanted),
                "mrr@10": 1 / first,
            },
            abs=1e-9,
        )


@pytest.mark.parametrize("grade", [101, 2_000_000_000, 10**19, 0.5, 1.0, "1", True, None])
def test_grades_that_could_end_the_process_are_refused(grade: Any) -> None:
    with pytest.raises(DataError, match="query 'q': the grade of document 'a' must be a whole num"):
        score({"q": {"a": 1.0}}, {"q": {"b": 1, "a": grade}})


names = st.text(st.characters(), max_size=3)  # surrogates and NUL too
runs = st.dictionaries(names, st.dictionaries(names, st.floats(-1, 1), max_size=4), max_size=3)
judgements = st.dictionaries(
    names, st.dictionaries(names, st.integers(-(2**70), 100), min_size=1, max_size=4), max_size=3
)


@given(runs, judgements, st.integers(1, 2**40))
@settings(deadline=None)
def test_any_ids_and_grades_are_scored(
    run: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]], relevant: int
) -> None:
    values = score(run, qrels, relevant=relevant)
    assert list(values) == list(qrels)
    for query, grades in qrels.items():
        order = sorted(run.get(query, {}), key=run.get(query, {}).__getitem__, reverse=True)
        assert values[query]["ndcg@10"] == pytest.approx(ndcg_by_hand(order, grades), abs=1e-9)
        wanted = {document for document, grade in grades.items() if grade >= relevant}
        recall = len(wanted & set(order)) / len(wanted) if wanted else 0.0
        assert values[query]["recall@100"] == pytest.approx(recall)


def test_nan_is_refused() -> None:
    with pytest.raises(DataError, match="query 'q': the score of document 'b' is NaN"):
        score({"q": {"a": 1.0, "b": math.nan}}, {"q": {"a": 1}})


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("Dave Edmunds", "by DAVE  edmunds, 1970", True),
        ("Dave Edmunds", "Dave P. Edmunds", False),
        ("art", "a party", False),
        ("cafe\u0301", "Le Caf\u00e9.", True),
        ("cafe", "caf\u00e9", False),
        ("43", "in 1943 or 430", False),
        ("43", "there are 43.", True),
        ("3", "3.5 litres", True),
        ("1,000", "1,000,000 people", True),
        ("1,000", "over 1,000, it is said", True),
        ("1968", "1968年に", True),
        ("C++", "the C language", False),
        ("幽默", "達到幽默的效果", True),
        ("幽默", "達到幽和默", False),
        ("서울", "서울은 수도", True),
        ("가", "각", False),
        ("ไทย", "ประเทศไทยคือ", True),
        ("पानी", "पानीपत", False),
        ("Haifa", "\u200eHaifa\u200f is", True),
        ("القاهرة", "عاصمة مصر هي القاهرة.", True),
        ("القاهرة", "هي قاهرة", False),
        ("القاهِرة", "هي القاهِرة،", True),
        ("São Paulo", "SÃO PAULO (cidade)", True),
        ("Sa\u0303o Paulo", "são paulo", True),
        ("U.S. Army", "the U.S. Army's band", True),
        ("U.S. Army", "the US Army", False),
        ("AT&T", "of AT&T, Inc.", True),
        ("Jay-Z", "by Jay-Z and others", True),
        ("Jay Z", "by Jay-Z and others", False),
        ("O'Neill", "Mr O'Neill said", True),
        ("19", "COVID-19", True),
        ("19", "1919", False),
        ("3.5", "3.5 litres", True),
        ("3.5", "13.5 litres", False),
        ("2017-06-14", "released 2017-06-14.", True),
        ("½", "½ cup", True),
        ("東京", "首都は東京です", True),
        ("東京タワー", "東京の タワー", False),
        ("ประเทศ", "ประเทศไทย", True),
    ],
)
def test_answer_match(answer: str, text: str, found: bool) -> None:
    assert answer_accuracy({"q": [text]}, {"q": [answer]}) == {
        "q": {"accuracy@10": float(found), "accuracy@100": float(found)}
    }


def field_tokens(text: str) -> list[str]:
    """Tokens as DrQA and DPR cut them, from Unicode's categories alone."""
    tokens: list[str] = []
    inside = False
    for character in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(character)[0]
        if kind in "LNM" and inside:
            tokens[-1] += character
        elif kind not in "ZC":
            tokens.append(character)
        inside = kind in "LNM"
    return [token.lower() for token in tokens]


def test_spaced_scripts_are_matched_as_in_the_field() -> None:
    generator = np.random.default_rng(1)
    pieces = ["a", "B", "c1", "é", "ß", "Ö", "да", "Й", "العَ", "בג", "हि", "3", "12", "½", "²"]
    pieces += [" ", " ", "  ", ".", ",", "-", "'", "’", "%", "_", "(", "\n", "\u200f", "\u00ad"]
    matches = 0
    for number in range(4000):
        text, answer = (
            "".join(generator.choice(pieces, generator.integers(1, size))) for size in (30, 4)
        )
        needle, tokens = field_tokens(answer), field_tokens(text)
        if not needle:
            continue
        spans = [tokens[i : i + len(needle)] for i in range(len(tokens))]
        found = answer_accuracy({"q": [text]}, {"q": [answer]}, (1,))["q"]["accuracy@1"]
        assert found == (needle in spans), (number, text, answer)
        matches += needle in spans
    assert 300 < matches < 2000


def test_any_alias_counts() -> None:
    answers = ["the Netherlands", "Holland", "Pays-Bas"]
    for text, found in (("in Holland", 1.0), ("aux pays-bas", 1.0), ("Netherland", 0.0)):
        assert answer_accuracy({"q": [text]}, {"q": answers}, (1,))["q"] == {"accuracy@1": found}


def test_accuracy_cutoffs_and_queries_without_texts() -> None:
    texts = ["nothing"] * 10 + ["the second answer"]
    values = answer_accuracy({"q": texts}, {"q": ["absent", "Second"], "r": ["x"]}, (1, 10, 11))
    assert values == {
        "q": {"accuracy@1": 0.0, "accuracy@10": 0.0, "accuracy@11": 1.0},
        "r": {"accuracy@1": 0.0, "accuracy@10": 0.0, "accuracy@11": 0.0},
    }


@pytest.mark.parametrize("answers", [[], [" "], ["good", "\u200e"]])
def test_answers_without_text(answers: list[str]) -> None:
    with pytest.raises(DataError, match="query 'q': answers must hold text"):
        answer_accuracy({"q": ["some text"]}, {"q": answers})


def test_average_over_those_that_have_the_metric() -> None:
    values = [{"ndcg@10": 0.25}, {"ndcg@10": 0.75, "accuracy@10": 1.0}]
    assert average(values) == {"ndcg@10": 0.5, "accuracy@10": 1.0}
    with pytest.raises(DataError, match="no metrics to average"):
        average([])
