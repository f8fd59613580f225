"""Whether two texts say nearly the same: their terms as BM25 counts them."""

from functools import lru_cache

from tdro_lightning.search.bm25 import analyse

NEAR_DUPLICATE_JACCARD = 0.8
TEXTS_KEPT = 1 << 16  # about a kilobyte each


def are_near_duplicates(text: str, other: str) -> bool:
    """Whether two texts share 0.8 of their BM25 terms, or one's terms run through the other's."""
    sequence, other_sequence = _sequence(text), _sequence(other)
    terms, other_terms = set(sequence.split()), set(other_sequence.split())
    if not terms or not other_terms:
        return False
    shared = len(terms & other_terms)
    is_alike = shared >= NEAR_DUPLICATE_JACCARD * len(terms | other_terms)
    return is_alike or sequence in other_sequence or other_sequence in sequence


@lru_cache(maxsize=TEXTS_KEPT)
def _sequence(text: str) -> str:
    """The terms in order, a space around each; kept, since a candidate comes up for many rows."""
    return f" {' '.join(analyse(text))} "
