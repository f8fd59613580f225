import pytest

from tdro_lightning.data.normalisation import normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Who\twrote\n\nFAUST? ", "who wrote faust?"),
        ("Ｗｈｏ　ｗｒｏｔｅ", "who wrote"),  # full-width letters and space
        ("ﬁnd cafe\u0301", "find café"),
        ("", ""),
    ],
)
def test_case_width_and_spaces_do_not_count(text: str, expected: str) -> None:
    assert normalise(text) == expected
