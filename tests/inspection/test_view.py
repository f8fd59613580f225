"""Every count of the view against a plain recomputation."""

from tdro_lightning.data.characters import normalise
from tdro_lightning.data.example import passage_text
from tdro_lightning.inspection.matches import LexicalMatcher
from tdro_lightning.inspection.sample import DomainSample, DrawnBatch, SampledRow
from tdro_lightning.inspection.view import domain_view, first_characters
from tdro_lightning.search.bm25 import BM25
from tests.inspection.made_pairs import made_rows


def sample_of(rows: list[dict]) -> DomainSample:
    parts = ("positive_passages", "negative_passages")
    return DomainSample(
        [
            SampledRow(i, row["query"], *(tuple(map(passage_text, row[p])) for p in parts))
            for i, row in enumerate(rows, 1)
        ],
        DrawnBatch(4, 8, 3),
    )


def test_counts_are_those_of_the_rows() -> None:
    rows, wrong = made_rows(120, swapped=0.2)
    rows[3]["query"] = rows[2]["query"].upper()
    rows[5]["positive_passages"] = rows[4]["positive_passages"] * 2
    rows[6]["negative_passages"] = []
    view = domain_view(sample_of(rows), LexicalMatcher())
    texts = {
        p: [passage_text(t) for r in rows for t in r[f"{p}_passages"]]
        for p in ("positive", "negative")
    }
    index = BM25(list(dict.fromkeys(texts["positive"] + texts["negative"])))
    below = compared = 0
    best = {}
    for number, row in enumerate(rows, 1):
        own, others = ([passage_text(p) for p in row[f"{k}_passages"]] for k in texts)
        if others:
            scores = index.score([row["query"]] * len(others), others)
            best[number] = others[int(scores.argmax())]
            below += int(sum(index.score([row["query"]] * len(own), own) < scores.max()))
            compared += len(own)
    assert view["below_a_negative"] == {"positives": compared, "below": below}
    assert below > 0.9 * compared  # and yet only the swapped ones are wrong
    assert view["looked_at"] == 120
    assert view["repeated"]["query"] == 120 - len({normalise(r["query"]) for r in rows}) == 1
    assert view["repeated"]["positive"] == 2
    assert view["batch"] == {"rows": 4, "passages": 8, "repeated": 3}
    assert view["mismatch"]["positives"] == 121
    assert view["mismatch"]["verdict"] == "mismatched"
    assert len(view["worst"]) == len({row["line"] for row in view["worst"]}) == 10
    assert len(wrong.intersection(row["line"] for row in view["worst"])) >= 8
    for row in view["worst"]:
        assert row["query"] == rows[row["line"] - 1]["query"]
        assert row["negative"] == (best.get(row["line"]) and first_characters(best[row["line"]]))
        assert 0 <= row["rank"] < 0.5


def test_small_domains_have_a_view() -> None:
    """One row, no negatives, texts without a word, nothing at all."""
    assert domain_view(DomainSample(), LexicalMatcher()) == {}
    for texts in (("a", ("b",), ()), ("?", ("!",), ("…",)), ("a b", ("a", "b"), ("a b",))):
        view = domain_view(DomainSample([SampledRow(1, *texts)]), LexicalMatcher())
        assert view["mismatch"]["verdict"] == "unclear"
        assert view["looked_at"] == len(view["worst"]) == 1


def test_long_texts_are_cut_on_one_line() -> None:
    assert first_characters("a\nb\tc") == "a b c"
    assert len(first_characters("x" * 500)) == 200
    assert first_characters("x" * 500).endswith("x…")
