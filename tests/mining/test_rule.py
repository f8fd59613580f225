import pytest

from tdro_lightning.errors import ConfigError
from tdro_lightning.mining.rule import MiningRule


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 5), "mine.negatives=0"),
        ((6, 5), "mine.depth=5"),
        ((4, 5, 2), r"mine.depth=5 less mine.skip=2 .* at least mine.negatives=4"),
        ((1, 5, -1), r"mine.skip=-1"),
    ],
)
def test_values_out_of_range(values: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MiningRule(*values)


@pytest.mark.parametrize(
    ("limits", "score", "positives", "expected"),
    [
        ({}, 9.0, [1.0], None),
        ({"max_score": 5.0}, 5.1, [9.0], "max_score"),
        ({"max_score": 5.0}, 5.0, [], None),
        ({"margin": 1.0}, 3.0, [6.0, 4.0], None),
        ({"margin": 1.0}, 3.1, [6.0, 4.0], "margin"),
        ({"ratio": 0.5}, 2.0, [4.0], None),
        ({"ratio": 0.5}, 2.1, [4.0], "ratio"),
        ({"ratio": 0.5}, -5.9, [-4.0], "ratio"),  # half of 4 is taken off -4
        ({"ratio": 0.5}, -6.1, [-4.0], None),
        ({"margin": 0.0, "ratio": 0.5}, 3.0, [4.0], "ratio"),
    ],
)
def test_excess(limits: dict, score: float, positives: list[float], expected: str | None) -> None:
    rule = MiningRule(1, 1, **limits)
    assert rule.excess(score, positives) == expected
    assert rule.has_limits == bool(limits)
    assert rule.compares == bool({"margin", "ratio"} & limits.keys())
