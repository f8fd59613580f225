import hashlib
import random

import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from tdro_lightning.data.characters import normalise
from tdro_lightning.decontamination import shingles as module
from tdro_lightning.decontamination.shingles import Shingler, shingles, words


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
    made = Shingler(10)(TEXTS)
    for i, text in enumerate(TEXTS):
        pieces = {piece for word in words(text) for piece in shingles(word)}
        hashes = {hash_64(piece) & 0xFFFFFFFF for piece in pieces}
        assert made.sets[i] == hashes
        assert made.simhashes[i] == simhash(text)
        minhash = MinHash(10, hashfunc=int)
        minhash.update_batch(hashes)
        assert made.minhashes[i] == minhash


def test_neither_order_nor_batches_nor_what_was_seen_before_matters(monkeypatch) -> None:
    monkeypatch.setattr(module, "WORDS_KEPT", 3)
    shingler = Shingler(10)
    alone = [shingler([text]) for text in TEXTS]
    together = Shingler(10)(TEXTS)
    assert [one.sets[0] for one in alone] == together.sets
    assert [one.simhashes[0] for one in alone] == together.simhashes.tolist()
    assert [one.minhashes[0] for one in alone] == together.minhashes
    mixed = TEXTS[0].split()
    random.Random(0).shuffle(mixed)
    made = shingler([" ".join(mixed)])
    assert (made.sets[0], made.simhashes[0]) == (together.sets[0], together.simhashes[0])
