"""BM25 over analysed text: the lexical baseline, and the source of hard negatives."""

import logging
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray

from tdro_lightning.data.characters import IGNORABLE, UNSPACED, WORD
from tdro_lightning.errors import DataError

K1 = 0.9
B = 0.4
QUERIES_A_MESSAGE = 1000
_STOP_WORDS = """
    a also an and are as at be been but by can could did do does for from had has have he how i if
    in into is it its may more no not of on or other our she should so such than that the their then
    there these they this to was we were what when where which who whose why will with would you
    your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_TOKEN = re.compile(rf"([{UNSPACED}]+)|{WORD}")
_IGNORABLE = re.compile(f"[{IGNORABLE}]")
# Thai, Lao, Myanmar and Khmer have no spaces: a zero-width one divides their words.
_DIVIDING = re.compile(r"(?<=[\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b")
_STEMMER = Stemmer.Stemmer("english")

logger = logging.getLogger(__name__)

# The library's logger sits at DEBUG and would write through any handler of the root logger.
logging.getLogger("bm25s").setLevel(logging.WARNING)


def analyse(text: str) -> list[str]:
    """Split text into the terms that BM25 counts, in the order of the text.

    NFKC and lower case; words without English stop words, Snowball-stemmed; runs of Chinese,
    Japanese, Korean or Thai characters as overlapping character bigrams. Characters of no width,
    like a soft hyphen, are left out and divide no word.
    """
    if not text.isascii():
        text = _IGNORABLE.sub("", _DIVIDING.sub(" ", text))
    terms: list[str] = []
    for match in _TOKEN.finditer(unicodedata.normalize("NFKC", text).lower()):
        token = match[0]
        if match[1] is None:
            if token not in STOP_WORDS:
                terms.append(_STEMMER.stemWord(token))
        elif len(token) == 1:
            terms.append(token)
        else:
            terms.extend(token[i : i + 2] for i in range(len(token) - 1))
    return terms


class BM25:
    """Lucene's BM25 with k1 = 0.9 and b = 0.4 (Kamphuis et al., ECIR 2020).

    Raises:
        DataError: there are no documents.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        if not documents:
            raise DataError("BM25 needs at least one document, got none")
        logger.info("BM25: indexing %d documents", len(documents))
        self._size = len(documents)
        self._vocabulary: dict[str, int] = {}
        # Terms are numbered as they come: the library would number them in hash order.
        number = self._vocabulary.setdefault
        terms = [[number(term, len(self._vocabulary)) for term in analyse(d)] for d in documents]
        self._mean_length = float(np.mean([len(found) for found in terms]))
        self._index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
        if self._vocabulary:
            self._index.index(
                (terms, self._vocabulary), create_empty_token=False, show_progress=False
            )

    def search(
        self, queries: Sequence[str], depth: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the best documents of each query, best first, the lower index first on ties.

        Args:
            queries: Q texts.
            depth: number of columns of the result.

        Returns:
            Scores [Q, depth] and document indices [Q, depth]. Only documents sharing a term with
            the query are hits; after the last hit a row holds index -1 and score 0.

        Raises:
            ValueError: depth is below 1.
        """
        if depth < 1:
            raise ValueError(f"depth must be at least 1, is {depth}")
        scores = np.zeros((len(queries), depth), dtype=np.float32)
        indices = np.full((len(queries), depth), -1, dtype=np.int64)
        for row, query in enumerate(queries):
            if row and row % QUERIES_A_MESSAGE == 0:
                logger.info("BM25: %d of %d queries searched", row, len(queries))
            terms = [self._vocabulary[t] for t in analyse(query) if t in self._vocabulary]
            if not terms:
                continue
            found = self._index.get_scores_from_ids(terms)
            best = _best(found, depth)
            scores[row, : len(best)] = found[best]
            indices[row, : len(best)] = best
        return scores, indices

    def score(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores [T] of texts for a query, by the documents' statistics, indexed or not.

        A document's own text scores as in `search`; terms that no document has count nothing.
        """
        weights = Counter(term for term in analyse(query) if term in self._vocabulary)
        holders = {term: self._holders(term) for term in weights}
        size = self._size
        idf = {t: math.log(1 + (size - n + 0.5) / (n + 0.5)) for t, n in holders.items()}
        scores = np.zeros(len(texts), dtype=np.float32)
        for place, text in enumerate(texts):
            terms = Counter(analyse(text))
            length = K1 * (1 - B + B * terms.total() / (self._mean_length or 1))
            scores[place] = sum(
                weight * idf[term] * terms[term] / (terms[term] + length)
                for term, weight in weights.items()
            )
        return scores

    def _holders(self, term: str) -> int:
        """Number of documents with the term."""
        start, end = self._index.scores["indptr"][self._vocabulary[term] :][:2]
        return int(end - start)


def _best(scores: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
    """Indices of the `depth` largest positive scores, largest first, lower index first on ties."""
    hits = np.flatnonzero(scores > 0)
    if len(hits) > depth:
        values = scores[hits]
        threshold = np.partition(values, -depth)[-depth]
        above = hits[values > threshold]
        equal = hits[values == threshold][: depth - len(above)]
        hits = np.sort(np.concatenate([above, equal]))
    return hits[np.argsort(-scores[hits], kind="stable")]
