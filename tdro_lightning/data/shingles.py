"""What near-duplicates share: the character shingles of a text's words, and its SimHash."""

import hashlib
import re
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tdro_lightning.retrieval.characters import UNSPACED, WORD

WIDTH = 3
NUMBER_WEIGHT = 6
WORDS_KEPT = 1 << 18

_TOKEN = re.compile(rf"([{UNSPACED}]+)|({WORD})")
_ASCII_WORD = re.compile(r"[a-z0-9]+")  # what the above finds in ASCII, in a quarter of the time


def words(text: str) -> list[str]:
    """The words of a normalised text.

    Runs of Chinese, Japanese, Korean or Thai characters give every character and every two
    neighbours. Function words stay: "what causes" and "how to prevent" tell questions apart.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text)
    found: list[str] = []
    for run, word in _TOKEN.findall(text):
        if word:
            found.append(word)
        else:
            found += run
            found += [run[i : i + 2] for i in range(len(run) - 1)]
    return found


def shingles(word: str) -> list[str]:
    """A word's overlapping pieces of three characters, its ends marked.

    A number is what tells many questions apart and is short, so it counts as six pieces of its own;
    a character of an unspaced script, or two, are one piece.
    """
    if any(character.isdigit() for character in word):
        return [f"{word}#{i}" for i in range(NUMBER_WEIGHT)]
    if re.match(rf"[{UNSPACED}]", word):
        return [word]
    marked = f" {word} "
    return [marked[i : i + WIDTH] for i in range(len(marked) - WIDTH + 1)]


class Shingler:
    """Shingles of many normalised texts; what a word gives is computed once."""

    def __init__(self) -> None:
        self._forget()

    def __call__(self, texts: Sequence[str]) -> tuple[list[frozenset[int]], NDArray[np.uint64]]:
        """The distinct shingles of each of N texts, as 32-bit hashes, and the SimHashes [N].

        A text without a word has no shingles, and SimHash 0. SimHash (Charikar, STOC 2002): bit b
        of 64 is set where more than half of the shingles of a text's distinct words have bit b set
        in their hash. Counted as often as they stand there, function words alone would make long
        texts of one language alike.
        """
        if len(self._rows) > WORDS_KEPT:
            self._forget()
        by_text = [[self._row(word) for word in dict.fromkeys(words(text))] for text in texts]
        columns = np.fromiter(chain.from_iterable(by_text), dtype=np.int32)
        ends = np.cumsum([0, *map(len, by_text)])
        shape = (len(texts), len(self._signs))
        counts = csr_array((np.ones(len(columns), dtype=np.float32), columns, ends), shape=shape)
        bits = np.packbits(counts @ self._signs > 0, axis=1, bitorder="little")
        sets = [frozenset().union(*[self._pieces[row] for row in rows]) for rows in by_text]
        return sets, bits.view("<u8").ravel()

    def _forget(self) -> None:
        self._rows: dict[str, int] = {}
        self._pieces: list[frozenset[int]] = []
        self._signs = np.zeros((1024, 64), dtype=np.float32)

    def _row(self, word: str) -> int:
        row = self._rows.get(word)
        if row is None:
            row = self._rows[word] = len(self._rows)
            if row == len(self._signs):
                self._signs = np.concatenate([self._signs, np.zeros_like(self._signs)])
            hashes = np.array([_hash(piece) for piece in shingles(word)], dtype="<u8")
            self._pieces.append(frozenset((hashes & 0xFFFFFFFF).tolist()))
            bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
            self._signs[row] = 2 * bits.sum(axis=0, dtype=np.float32) - len(hashes)
        return row


def _hash(piece: str) -> int:
    return int.from_bytes(hashlib.blake2b(piece.encode(), digest_size=8).digest(), "little")
