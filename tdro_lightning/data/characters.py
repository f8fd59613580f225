"""Characters of any script: words, what cannot be seen, and texts as they are compared."""

import re
import unicodedata

# Scripts written without spaces between words, and Hangul, whose words carry particles. Bopomofo
# and the CJK iteration marks are in; CJK punctuation is not.
UNSPACED = (
    r"\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    r"\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3"  # Hangul
    r"\u3005-\u3007\u3041-\u3096\u3099-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # kana
    r"\u3105-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
)


def _category_class(initials: tuple[str, ...]) -> str:
    chosen = (c for c in map(chr, range(0x80, 0x10000)) if unicodedata.category(c) in initials)
    return "".join(f"\\u{ord(c):04x}" for c in chosen)


_MARKS = _category_class(("Mn", "Mc", "Me"))
_LETTERS = rf"[^\W_{UNSPACED}]"

# One word: Python's `\w` stops at combining marks, which would cut Hindi, Khmer or Arabic apart.
WORD = rf"{_LETTERS}+(?:[{_MARKS}]+{_LETTERS}*)*"
INVISIBLE = r"\s\x00-\x1f\x7f" + _category_class(("Cc", "Cf"))
# Characters of no width, which end no word: soft hyphen, joiners, marks of direction, variation
# selectors, fillers of Hangul (Unicode's Default_Ignorable_Code_Point).
IGNORABLE = (
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    r"\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_BLANKS = r"\u2800\U0001d159"  # of width, and empty: Braille and musical notation

_SPACE = re.compile(r"\s+")
_VISIBLE = re.compile(rf"[^{INVISIBLE}{IGNORABLE}{_BLANKS}]")


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: spaces, controls and invisible characters only."""
    return _VISIBLE.search(text) is None


def normalise(text: str) -> str:
    """Text as it is compared: NFKC, lower case, single spaces."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).lower()).strip()
