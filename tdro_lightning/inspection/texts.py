"""What the texts of a domain are: lengths, scripts, near-copies, and repetitions in a batch."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from tdro_lightning.data.characters import normalise
from tdro_lightning.decontamination.evaluation_index import EvaluationIndex, EvaluationText

LEAST_SHARE = 0.01  # of the letters, for a script to be listed
SIMHASH_DISTANCE, JACCARD = 3, 0.8  # as decontamination has them
HAN = ("CJK", "IDEOGRAPHIC")


def lengths(texts: Iterable[str]) -> dict[str, int]:
    """Median and 95th percentile of the numbers of characters; empty without texts."""
    counts = [len(text) for text in texts]
    if not counts:
        return {}
    return {
        "median": int(np.quantile(counts, 0.5, method="nearest")),
        "p95": int(np.quantile(counts, 0.95, method="nearest")),
    }


def scripts(texts: Iterable[str]) -> dict[str, float]:
    """Share of each script in the letters, the largest first; digits and signs have none.

    Scripts tell Russian from English, and not English from French.
    """
    characters: Counter[str] = Counter()
    for text in texts:
        characters.update(unicodedata.normalize("NFKC", text))
    found: Counter[str] = Counter()
    for character, count in characters.items():
        if name := script(character):
            found[name] += count
    total = found.total()
    shares = {name: count / total for name, count in found.most_common()}
    return {name: round(share, 4) for name, share in shares.items() if share >= LEAST_SHARE}


@cache
def script(character: str) -> str | None:
    """The script of a letter, by the first word of its Unicode name; None of other characters."""
    if not character.isalpha():
        return None
    word = unicodedata.name(character, "UNNAMED").split(maxsplit=1)[0].partition("-")[0]
    return "Han" if word in HAN else word.capitalize()


def near_copies(texts: Sequence[str]) -> int:
    """How many different texts nearly repeat another one of them.

    Texts that are equal after normalisation count as one. Near is what decontamination calls so: a
    SimHash within 3 of 64 bits and half of the shingles shared, or a Jaccard similarity of the
    shingles of 0.8 or more.
    """
    different = list(dict.fromkeys(map(normalise, texts)))
    # A set of its own for each text, since of every set only the nearest match is returned.
    known = [EvaluationText(str(i), "query", str(i), text) for i, text in enumerate(different)]
    index = EvaluationIndex(known, SIMHASH_DISTANCE, JACCARD)
    return sum(
        any(match.text.set != str(i) for match in matches)
        for i, matches in enumerate(index.find(different))
    )
