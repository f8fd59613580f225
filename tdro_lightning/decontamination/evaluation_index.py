"""Which evaluation texts a text repeats: exactly, by SimHash, or by MinHash."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import faiss
import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from tdro_lightning.data.characters import normalise
from tdro_lightning.decontamination.shingles import Shingler

METHODS = ("exact", "simhash", "minhash")  # in the order in which a match is reported
BITS = 64
BANDS, BAND_SIZE = 25, 5  # 99 % of the pairs of Jaccard similarity 0.7 share a band
PERMUTATIONS = BANDS * BAND_SIZE
ESTIMATE_MARGIN = 0.12  # three standard deviations of the estimate at 0.7
SIMHASH_JACCARD = 0.5  # below it, close SimHashes are chance: there are very many pairs
TEXTS_AT_ONCE = 4096


@dataclass(frozen=True)
class EvaluationText:
    """A query or document of an evaluation set.

    Attributes:
        kind: `query` or `document`.
        text: of a document with its title.
    """

    set: str
    kind: str
    id: str
    text: str


@dataclass(frozen=True)
class Match:
    """An evaluation text that a training text repeats.

    Attributes:
        method: `exact` (after normalisation), `simhash` or `minhash`.
        distance: 0, bits that differ, or 1 - Jaccard similarity of the shingles.
    """

    text: EvaluationText
    method: str
    distance: float


class EvaluationIndex:
    """Finds the evaluation texts that others repeat.

    SimHashes are compared exactly up to the distance, by faiss, which looks up `distance + 1`
    blocks of bits of which one must be equal (Manku et al., WWW 2007); matches must share half
    their shingles too. MinHash (Broder, 1997) finds candidates with datasketch's LSH; their
    Jaccard similarity is then counted.

    Args:
        texts: the evaluation texts.
        simhash_distance: most bits in which two SimHashes of 64 bits may differ, from 0 to 7.
        jaccard: least Jaccard similarity of the two texts' shingles, from 0.6 to 1.
    """

    def __init__(
        self, texts: Sequence[EvaluationText], simhash_distance: int, jaccard: float
    ) -> None:
        self._texts = texts
        self._radius, self._jaccard = simhash_distance, jaccard
        self._shingler = Shingler(PERMUTATIONS)
        self._exact: dict[str, list[int]] = {}
        blocks = simhash_distance + 1
        self._simhash = faiss.IndexBinaryMultiHash(BITS, blocks, BITS // blocks)
        self._lsh = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, BAND_SIZE))
        self._signatures = np.zeros((len(texts), PERMUTATIONS), dtype=np.uint32)
        self._shingles: list[NDArray[np.uint32]] = []
        self._with_words: list[int] = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            self._add(range(start, min(start + TEXTS_AT_ONCE, len(texts))))

    def find(self, texts: Sequence[str]) -> list[tuple[Match, ...]]:
        """For each text the evaluation texts it repeats: the nearest one of every set.

        Exact ones go first, then those found by SimHash, then by MinHash; a text without a word
        can only match exactly.
        """
        parts = (
            self._find(texts[start : start + TEXTS_AT_ONCE])
            for start in range(0, len(texts), TEXTS_AT_ONCE)
        )
        return [*chain.from_iterable(parts)]

    def _add(self, places: range) -> None:
        texts = [normalise(self._texts[place].text) for place in places]
        made = self._shingler(texts)
        for place, text, own in zip(places, texts, made.sets, strict=True):
            self._exact.setdefault(text, []).append(place)
            self._shingles.append(np.fromiter(own, dtype=np.uint32))
        with_words = [i for i, own in enumerate(made.sets) if own]
        for i in with_words:
            self._lsh.insert(places[i], made.minhashes[i])
            self._signatures[places[i]] = made.minhashes[i].hashvalues
        self._simhash.add(_bytes(made.simhashes[with_words]))
        self._with_words += [places[i] for i in with_words]

    def _find(self, texts: Sequence[str]) -> list[tuple[Match, ...]]:
        normalised = [normalise(text) for text in texts]
        made = self._shingler(normalised)
        # The library's radius is exclusive.
        ends, bits, near = self._simhash.range_search(_bytes(made.simhashes), self._radius + 1)
        found = []
        for i, text in enumerate(normalised):
            matches = [(0, 0.0, place) for place in self._exact.get(text, ())]
            if made.sets[i]:
                hits = range(ends[i], ends[i + 1])
                pairs = ((float(bits[hit]), self._with_words[near[hit]]) for hit in hits)
                matches += [
                    (1, distance, place)
                    for distance, place in pairs
                    if self._similarity(made.sets[i], place) >= SIMHASH_JACCARD
                ]
                matches += self._similar(made.minhashes[i], made.sets[i])
            found.append(self._nearest(matches))
        return found

    def _similar(self, minhash: MinHash, own: frozenset[int]) -> list[tuple[int, float, int]]:
        candidates = np.array(self._lsh.query(minhash), dtype=np.int64)
        equal = (self._signatures[candidates] == minhash.hashvalues).mean(axis=1)
        likely = candidates[equal >= self._jaccard - ESTIMATE_MARGIN].tolist()
        shared = ((place, self._similarity(own, place)) for place in likely)
        return [(2, round(1 - s, 4), place) for place, s in shared if s >= self._jaccard]

    def _similarity(self, own: frozenset[int], place: int) -> float:
        other = self._shingles[place].tolist()
        shared = len(own.intersection(other))
        return shared / (len(own) + len(other) - shared)

    def _nearest(self, matches: list[tuple[int, float, int]]) -> tuple[Match, ...]:
        best: dict[str, Match] = {}
        for method, distance, place in sorted(matches):
            text = self._texts[place]
            best.setdefault(text.set, Match(text, METHODS[method], distance))
        return tuple(best.values())


def _bytes(simhashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    return simhashes.astype("<u8").view(np.uint8).reshape(-1, BITS // 8)
