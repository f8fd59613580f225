import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tdro_lightning.data import shingles as module
from tdro_lightning.data.normalisation import normalise
from tdro_lightning.data.shingles import Shingler, shingles, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("who's the 3rd?", ["who", "s", "the", "3rd"]),
        ("café — naïve", ["café", "naïve"]),
        ("日本語 2024", ["日", "本", "語", "日本", "本語", "2024"]),
        ("한국어", ["한", "국", "어", "한국", "국어"]),
        ("…!?", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_split_as_any_text(text: str) -> None:
    normalised = normalise(text)
    slow = [word for _, word in module._TOKEN.findall(normalised)]
    assert words(normalised) == slow


def test_the_shingles_of_words_numbers_and_characters() -> None:
    assert shingles("cats") == [" ca", "cat", "ats", "ts "]
    assert shingles("a") == [" a "]
    assert shingles("日") == ["日"]
    assert shingles("日本") == ["日本"]
    assert shingles("50") == [f"50#{i}" for i in range(6)]


def hash_64(piece: str) -> int:
    return int.from_bytes(hashlib.blake2b(piece.encode(), digest_size=8).digest(), "little")


def simhash(text: str) -> int:
    """Bit by bit, from the definition."""
    pieces = [hash_64(piece) for word in set(words(text)) for piece in shingles(word)]
    bits = (sum(piece >> bit & 1 for piece in pieces) > len(pieces) / 2 for bit in range(64))
    return sum(int(is_set) << bit for bit, is_set in enumerate(bits))


TEXTS = ["the cat saw the cats", "", "日本 in 2024", "a b c d e f", "?!", "x" * 40_000]


def test_sets_and_simhashes_are_those_of_the_definition() -> None:
    sets, simhashes = Shingler()(TEXTS)
    for text, own, value in zip(TEXTS, sets, simhashes.tolist(), strict=True):
        pieces = {piece for word in words(text) for piece in shingles(word)}
        assert own == {hash_64(piece) & 0xFFFFFFFF for piece in pieces}
        assert value == simhash(text)


def test_neither_order_nor_batches_nor_what_was_seen_before_matters(monkeypatch) -> None:
    monkeypatch.setattr(module, "WORDS_KEPT", 3)
    shingler = Shingler()
    alone = [shingler([text]) for text in TEXTS]
    sets, simhashes = Shingler()(TEXTS)
    assert [one[0][0] for one in alone] == sets
    assert [one[1][0] for one in alone] == simhashes.tolist()
    mixed = TEXTS[0].split()
    random.Random(0).shuffle(mixed)
    (own,), (value,) = shingler([" ".join(mixed)])
    assert (own, value) == (sets[0], simhashes[0])
