"""The check of mined negatives finds every kind of positive that it says it looks for."""

import pytest

from tests.experiments.conftest import loaded

TEXT = "The Ilm rises in the Thuringian Forest and flows through the old town of Weimar"
GIVEN = [
    {"query": "Weimar river", "positive_passages": [{"docid": "p1", "title": "", "text": TEXT}]},
    {
        "query": "weimar  RIVER",
        "positive_passages": [{"docid": "p2", "title": "", "text": "水道は川"}],
    },
]


@pytest.mark.parametrize(
    ("docid", "text", "kinds"),
    [
        ("n", "The Danube flows through Vienna", set()),
        ("p2", "The Danube flows through Vienna", {"known id"}),
        ("n", TEXT.upper(), {"known text", "terms", "run", "trigrams 0.8"}),
        ("n", "Weimar River", {"query"}),
        ("n", "Weimar: its old town, the Ilm flows through; rises: Thuringian Forest", {"terms"}),
        ("n", "We know that the Ilm rises in the Thuringian Forest and flows through the old towns "
         "of Weimar. So it was once, and so it shall be for years to come", {"run"}),
        ("n", "この水道は川です", {"run"}),
    ],
)  # fmt: skip
def test_planted_positives_are_found(docid: str, text: str, kinds: set[str]) -> None:
    negative = {"docid": docid, "title": "", "text": text}
    found = loaded("mining/check.py").check([GIVEN[0] | {"negative_passages": [negative]}], GIVEN)
    assert {kind for kind, count in found.items() if count} == {"rows", "negatives", *kinds}
