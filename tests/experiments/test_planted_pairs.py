"""The pairs by which decontamination is measured: made the same again, changed, and found."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tdro_lightning.decontamination.evaluation_index import EvaluationIndex, EvaluationText

FOLDER = Path(__file__).parents[2] / "experiments" / "decontamination"
TEXTS = [
    EvaluationText(
        "a", "query", "1", "Which river flows through the old town of Weimar in Germany?"
    ),
    EvaluationText("a", "query", "2", "1917年德國採用什麼戰術，驅逐艦開始安裝深水炸彈充當反潛艦?"),
    EvaluationText(
        "a", "document", "3", "The Ilm rises in the Thuringian Forest. It passes Weimar. " * 5
    ),
]


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    import pairs

    monkeypatch.delitem(sys.modules, "pairs")
    return pairs


@pytest.mark.parametrize("change", ["punctuation", "reordered", "edited", "all three"])
def test_a_planted_text_is_changed_alike_again_and_found(pairs: ModuleType, change: str) -> None:
    index = EvaluationIndex(TEXTS, 3, 0.7)
    for seed in range(5):
        for text in TEXTS:
            made = pairs.planted(text, change, np.random.default_rng(seed))
            assert made == pairs.planted(text, change, np.random.default_rng(seed))
            assert (made.kind, made.original) == (change, text)
            if change in ("reordered", "all three"):
                assert made.text != text.text
            ((match,),) = index.find([made.text])
            assert match.text == text


def test_the_nearest_text_shares_most_shingles(pairs: ModuleType) -> None:
    others = [
        "a town in Germany",
        "which river flows through Jena?",
        "深水炸彈",
        "Thuringian Forest",
    ]
    found = pairs.neighbours(TEXTS, others, "nearest")
    assert [pair.text for pair in found] == [others[1], others[2], others[3]]
