"""BM25 over analysed text: the lexical baseline, and the source of hard negatives."""

import logging
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray

from tdro_lightning.data.characters import IGNORABLE, UNSPACED, WORD
from tdro_lightning.errors import DataError
from tdro_lightning.search.retriever import Hits

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
        if match[1] is not None:
            terms += [token[i : i + 2] for i in range(max(len(token) - 1, 1))]
        elif token not in STOP_WORDS:
            terms.append(_STEMMER.stemWord(token))
    return terms


class BM25:
    """Lucene's BM25 with k1 = 0.9 and b = 0.4 (Kamphuis et al., ECIR 2020).

    The index is built by the first process that searches, in its memory: a million documents of 60
    terms take about 2 GB meanwhile. Larger corpora are for an encoder.

    Raises:
        DataError: there are no documents.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        if not documents:
            raise DataError("BM25 needs at least one document, got none")
        self.documents = documents

    @cached_property
    def _built(self) -> tuple[bm25s.BM25, dict[str, int], float]:
        """The library's index, the number of each term, and the mean number of terms."""
        logger.info("BM25: indexing %d documents", len(self.documents))
        vocabulary: dict[str, int] = {}
        # Terms are numbered as they come: the library would number them in hash order.
        number = vocabulary.setdefault
        terms = [[number(t, len(vocabulary)) for t in analyse(d)] for d in self.documents]
        mean_length = float(np.mean([len(numbers) for numbers in terms]))
        index = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
        if vocabulary:
            index.index((terms, vocabulary), create_empty_token=False, show_progress=False)
        return index, vocabulary, mean_length

    def search(self, queries: Sequence[str], depth: int) -> Hits:
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
        index, vocabulary, _ = self._built
        scores = np.zeros((len(queries), depth), dtype=np.float32)
        indices = np.full((len(queries), depth), -1, dtype=np.int64)
        for row, query in enumerate(queries):
            if row and row % QUERIES_A_MESSAGE == 0:
                logger.info("BM25: %d of %d queries searched", row, len(queries))
            terms = [vocabulary[term] for term in analyse(query) if term in vocabulary]
            if terms:
                values = index.get_scores_from_ids(terms)
                best = _best(values, depth)
                scores[row, : len(best)] = values[best]
                indices[row, : len(best)] = best
        return scores, indices

    def score(self, queries: Sequence[str], texts: Sequence[str]) -> NDArray[np.float32]:
        """Scores [P] of P pairs by the documents' statistics, whether a text is indexed or not.

        A document's own text scores as in `search`; terms that no document has count nothing.
        """
        weights = {query: self._weights(query) for query in dict.fromkeys(queries)}
        mean_length = self._built[2] or 1
        scores = np.zeros(len(texts), dtype=np.float32)
        for pair, (query, text) in enumerate(zip(queries, texts, strict=True)):
            terms = Counter(analyse(text))
            length = K1 * (1 - B + B * terms.total() / mean_length)
            scores[pair] = sum(
                weight * terms[term] / (terms[term] + length)
                for term, weight in weights[query].items()
            )
        return scores

    def forget(self) -> None:
        """Do nothing: scores depend on nothing that was computed before."""

    def _weights(self, query: str) -> dict[str, float]:
        """Count and inverse document frequency of the query's terms, multiplied."""
        index, vocabulary, _ = self._built
        counts = Counter(term for term in analyse(query) if term in vocabulary)
        weights = {}
        for term, count in counts.items():
            start, end = index.scores["indptr"][vocabulary[term] :][:2].tolist()
            ratio = (len(self.documents) - (end - start) + 0.5) / (end - start + 0.5)
            weights[term] = count * math.log(1 + ratio)
        return weights


@dataclass
class BM25Retriever:
    """BM25 without the prompt; documents that are indexed twice in a row keep their index."""

    fingerprint = "bm25 2"  # of the analysis of texts, too
    _latest: BM25 | None = field(default=None, init=False)

    def encode_queries(
        self, texts: Sequence[str], prompt: str | None, folder: Path, name: str = ""
    ) -> NDArray[np.object_]:
        """The texts as an array."""
        return np.array(texts, dtype=object)

    def index(
        self,
        documents: Sequence[str],
        folder: Path,
        name: str,
        position: Callable[[str], int] | None = None,
    ) -> BM25:
        """The documents' index, which is built where it is searched."""
        if self._latest is None or self._latest.documents is not documents:
            self._latest = BM25(documents)
        return self._latest


def _best(scores: NDArray[np.float32], depth: int) -> NDArray[np.int64]:
    """Indices of the `depth` largest positive scores, largest first, lower index first on ties."""
    hits = np.flatnonzero(scores > 0)
    if len(hits) > depth:
        hits = hits[scores[hits] >= np.partition(scores[hits], -depth)[-depth]]
    return hits[np.argsort(-scores[hits], kind="stable")][:depth]
