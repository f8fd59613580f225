import statistics
import unicodedata

from tdro_lightning.inspection.texts import lengths, near_copies, script, scripts


def test_lengths_are_of_characters() -> None:
    texts = ["x" * n for n in (5, 1, 3, 2, 4)]
    assert lengths(texts) == {"median": statistics.median([1, 2, 3, 4, 5]), "p95": 5}
    assert lengths(["é日🙂"]) == {"median": 3, "p95": 3}
    assert lengths([]) == {}


def test_scripts_are_shares_of_the_letters() -> None:
    found = scripts(["Hello мир", "日本 2024!", "ＡＢ", "ひ"])
    letters = {"Latin": 7, "Cyrillic": 3, "Han": 2, "Hiragana": 1}
    assert found == {name: round(count / 13, 4) for name, count in letters.items()}
    assert scripts(["123 …", ""]) == {}
    assert "Greek" not in scripts(["a" * 200, "α"])


def test_every_letter_has_a_script() -> None:
    for character in map(chr, range(0x20, 0x3000)):
        is_letter = unicodedata.category(character).startswith("L")
        assert (script(character) is not None) == is_letter


def test_near_copies_are_counted_among_different_texts() -> None:
    text = "How can I reset the password of my online banking account when my phone is lost"
    texts = [
        text,
        text.upper(),
        f"{text}?!",
        f"please, {text}",
        "Something that is not alike at all",
    ]
    assert near_copies(texts) == 3  # of the four different ones; the upper-case text is equal
    assert near_copies(["a", "b"]) == 0
    assert near_copies([]) == 0
