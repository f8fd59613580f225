"""What near-duplicates share: the character shingles of a text's words, and its SimHash."""

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import chain

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tdro_lightning.data.characters import UNSPACED, WORD

WIDTH = 3
NUMBER_WEIGHT = 6
WORDS_KEPT = 1 << 17  # 120 MB

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


@dataclass(frozen=True)
class Shingles:
    """What is compared of N texts; a text without a word has no shingles and the SimHash 0.

    Attributes:
        sets: distinct shingles of each text, as 32-bit hashes.
        simhashes: [N]; bit b of 64 is set where more than half of the shingles of a text's distinct
            words have bit b set in their hash (Charikar, STOC 2002). Counted as often as they stand
            there, function words alone would make long texts of one language alike.
        minhashes: MinHash of each text's set.
    """

    sets: list[frozenset[int]]
    simhashes: NDArray[np.uint64]
    minhashes: list[MinHash]


class Shingler:
    """Shingles of many normalised texts; what a word gives is computed once.

    A text's MinHash is the least of its words', which saves most of the library's time.

    Args:
        permutations: of a MinHash.
    """

    def __init__(self, permutations: int) -> None:
        self._empty = MinHash(permutations, hashfunc=int)  # shingles are hashes already
        self._reset()

    def __call__(self, texts: Sequence[str]) -> Shingles:
        """Shingles of N texts."""
        if len(self._pieces) > WORDS_KEPT:
            self._reset()
        by_text = [[*map(self._row, dict.fromkeys(words(text)))] for text in texts]
        columns = np.fromiter(chain.from_iterable(by_text), dtype=np.int32)
        ends = np.cumsum([0, *map(len, by_text)])
        shape = (len(texts), len(self._signs))
        counts = csr_array((np.ones(len(columns), dtype=np.float32), columns, ends), shape=shape)
        bits = np.packbits(counts @ self._signs > 0, axis=1, bitorder="little")
        return Shingles(
            sets=[frozenset().union(*[self._pieces[row] for row in rows]) for rows in by_text],
            simhashes=bits.view("<u8").ravel(),
            minhashes=[self._minhash(rows) for rows in by_text],
        )

    def _reset(self) -> None:
        self._row = cache(self._add)
        self._pieces: list[frozenset[int]] = []
        self._signs = np.zeros((1024, 64), dtype=np.float32)
        self._least = np.zeros((1024, len(self._empty)), dtype=np.uint32)

    def _add(self, word: str) -> int:
        row = len(self._pieces)
        if row == len(self._signs):
            self._signs = np.concatenate([self._signs, np.zeros_like(self._signs)])
            self._least = np.concatenate([self._least, np.zeros_like(self._least)])
        digests = [blake2b(p.encode(), digest_size=8).digest() for p in shingles(word)]
        hashes = np.frombuffer(b"".join(digests), dtype="<u8")
        self._pieces.append(frozenset((hashes & 0xFFFFFFFF).tolist()))
        bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
        self._signs[row] = 2 * bits.sum(axis=0, dtype=np.float32) - len(hashes)
        minhash = self._empty.copy()
        minhash.update_batch(self._pieces[row])
        self._least[row] = minhash.hashvalues
        return row

    def _minhash(self, rows: list[int]) -> MinHash:
        minhash = copy(self._empty)
        if rows:
            minhash.hashvalues = self._least[rows].min(axis=0)
        return minhash
