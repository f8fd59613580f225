"""What can be seen of a text, against Unicode's own categories."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdro_lightning.data.characters import is_blank, normalise

INVISIBLE = (
    "", " ", "\t\r\n", "\u200b", "\ufeff", "\u3164", "\u2800", "\u00ad", "\x00\x07\x7f\x9f",
    "\u200e\u202e\u2066", "\u3000\u2028\u00a0", "\u115f\u1160\uffa0", "\u2060\u2063", "\ufe0f",
    "\U000e0041\U000e007f", "\U0001d159", "\u034f\u17b4", "\u180e",
)  # fmt: skip
VISIBLE = (
    "a",
    "\u200ba",
    ".",
    "\u0301",
    "\U0001f468\u200d\U0001f469",
    "中",
    "ก",
    "\ufffd",
    "\u00b7",
)


@pytest.mark.parametrize("text", INVISIBLE)
def test_nothing_can_be_seen(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", VISIBLE)
def test_something_can_be_seen(text: str) -> None:
    assert not is_blank(text)


def test_letters_marks_and_signs_are_seen_and_spaces_controls_and_formats_are_not() -> None:
    """All of the basic plane; 30 letters and marks of no width are the exceptions."""
    exceptions = 0
    for character in map(chr, range(0x10000)):
        kind = unicodedata.category(character)
        if kind in ("Cc", "Cf", "Zs", "Zl", "Zp"):
            assert is_blank(character), hex(ord(character))
        elif kind[0] in "LMNPS":
            exceptions += is_blank(character)
    assert exceptions == len("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800") + 4 + 16


@given(st.text(), st.sampled_from(INVISIBLE))
def test_invisible_characters_add_nothing(text: str, invisible: str) -> None:
    assert is_blank(invisible + text) == is_blank(text) == is_blank(text + invisible)


def test_the_largest_character_is_checked() -> None:
    assert not is_blank(chr(sys.maxunicode))


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
