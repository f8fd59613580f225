import pytest

from tdro_lightning.mining.near_duplicates import are_near_duplicates


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a b1 b2 b3 b4 b5", "b5 b4 b3 b2 b1", True),
        ("b1 b2 b3 b4", "b4 b3 b2 b1 b5", True),  # 4 of 5
        ("b1 b2 b3 b4 x", "b4 b3 b2 b1 b5", False),  # 4 of 6
        ("trees in autumn", "old tree, autumn leaves", True),
        ("art", "a party", False),
        ("東京都", "これは東京都です", True),
        ("the", "the of", False),
    ],
)
def test_are_near_duplicates(one: str, other: str, expected: bool) -> None:
    assert are_near_duplicates(one, other) is expected
    assert are_near_duplicates(other, one) is expected
