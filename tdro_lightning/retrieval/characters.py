"""Pieces of regular expressions for splitting text of any script into words."""

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
