"""Near-duplicates of evaluation texts, planted by edits, and real texts that are merely similar."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from tdro_lightning.data.characters import UNSPACED, normalise
from tdro_lightning.decontamination.evaluation_index import EvaluationText
from tdro_lightning.decontamination.shingles import Shingler
from tdro_lightning.search.bm25 import STOP_WORDS

CHANGES = ("punctuation", "reordered", "edited", "all three")
WORDS_AN_EDIT = {"query": 8, "document": 12}

_UNSPACED = re.compile(f"[{UNSPACED}]")
_PIECE = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
_MARKS = re.compile(r"[?.!,;:'\"()\-？。，！、；：「」（）]")


@dataclass(frozen=True)
class Pair:
    """A text, and the evaluation text that it repeats or resembles.

    Attributes:
        kind: one of `CHANGES`, or where a merely similar text comes from.
    """

    kind: str
    original: EvaluationText
    text: str


def planted(original: EvaluationText, change: str, random: np.random.Generator) -> Pair:
    """The text with one of the changes made to it."""
    text = original.text
    if change in ("edited", "all three"):
        text = edited(text, WORDS_AN_EDIT[original.kind], random)
    if change in ("reordered", "all three"):
        text = reordered(text, random)
    if change in ("punctuation", "all three"):
        text = punctuated(text, random)
    return Pair(change, original, text)


def edited(text: str, every: int, random: np.random.Generator) -> str:
    """One edit for every few words: letters swapped or lost, a function word put in or left out."""
    pieces = _PIECE.findall(text)
    if sum(bool(_UNSPACED.match(piece)) for piece in pieces) > len(pieces) / 2:
        every *= 2  # a word has about two characters there
    count = min(len(pieces), max(1, round(len(pieces) / every)))
    for place in random.choice(len(pieces), count, replace=False):
        word, edit = pieces[place], random.integers(4)
        functions = [i for i, piece in enumerate(pieces) if piece.lower() in STOP_WORDS]
        if edit == 0 and functions:
            pieces[functions[random.integers(len(functions))]] = ""
        elif edit == 1 and word:
            pieces[place] = word * 2 if _UNSPACED.match(word) else f"{word} the"
        elif edit == 2 and len(word) > 3:
            pieces[place] = word[:-1]
        elif len(word) > 3:
            cut = int(random.integers(1, len(word) - 2))
            pieces[place] = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
        elif _UNSPACED.match(word) and place + 1 < len(pieces):
            pieces[place], pieces[place + 1] = pieces[place + 1], word
    return joined(pieces)


def reordered(text: str, random: np.random.Generator) -> str:
    """The text cut in two at a word, or in four where it is long, with the parts shuffled."""
    pieces = _PIECE.findall(text)
    cuts = 1 if len(pieces) < 40 else 3
    if len(pieces) <= cuts + 1:
        return joined(pieces[::-1])
    places = sorted(random.choice(np.arange(1, len(pieces)), cuts, replace=False).tolist())
    parts = [pieces[a:b] for a, b in zip([0, *places], [*places, len(pieces)], strict=True)]
    order = np.roll(np.arange(len(parts)), 1) if cuts == 1 else random.permutation(len(parts))
    return joined([piece for part in order for piece in parts[part]])


def punctuated(text: str, random: np.random.Generator) -> str:
    """Marks lost or replaced, another case, and an ending."""
    replacements = ["", "", "!", " - ", ",", "…"]
    text = _MARKS.sub(lambda match: replacements[random.integers(len(replacements))], text)
    cased = [text, text.lower(), text.upper(), text.title()][random.integers(4)]
    return f"{cased} {['', '?', '!!', '...'][random.integers(4)]}".strip()


def joined(pieces: Sequence[str]) -> str:
    """Pieces with spaces between them, except between two characters of an unspaced script."""
    text = ""
    for piece in filter(None, pieces):
        spaced = text and not (_UNSPACED.match(piece[0]) and _UNSPACED.match(text[-1]))
        text += f" {piece}" if spaced else piece
    return text


def neighbours(originals: Sequence[EvaluationText], texts: Sequence[str], kind: str) -> list[Pair]:
    """Each original with the text that shares most shingles with it (Jaccard similarity)."""
    shingler = Shingler(1)
    sets = shingler([normalise(text.text) for text in originals]).sets
    others = shingler([normalise(text) for text in texts]).sets
    columns: dict[int, int] = {}
    own, pool = _counts(sets, columns), _counts(others, columns)
    pool.resize((len(texts), len(columns)))
    own.resize((len(originals), len(columns)))
    shared = (own @ pool.T).toarray()
    sizes = np.add.outer([len(one) for one in sets], [len(one) for one in others])
    best = (shared / np.maximum(sizes - shared, 1)).argmax(axis=1).tolist()
    return [Pair(kind, text, texts[place]) for text, place in zip(originals, best, strict=True)]


def _counts(sets: Sequence[frozenset[int]], columns: dict[int, int]) -> csr_array:
    found = [columns.setdefault(one, len(columns)) for own in sets for one in sorted(own)]
    ends = np.cumsum([0, *map(len, sets)])
    values = np.ones(len(found), dtype=np.float32)
    return csr_array((values, found, ends), shape=(len(sets), len(columns)))


def swapped(
    originals: Sequence[EvaluationText], rarity: dict[str, int], random: np.random.Generator
) -> list[Pair]:
    """Each original asked about something else: its rarest word is another original's rarest."""
    rarest = [_rarest(original.text, rarity) for original in originals]
    pairs = []
    for original, word in zip(originals, rarest, strict=True):
        others = sorted(set(rarest) - {word, ""})
        text = original.text.replace(word, others[random.integers(len(others))])
        if word and text != original.text and len(_PIECE.findall(text)) > 2:
            pairs.append(Pair("one word replaced", original, text))
    return pairs


def _rarest(text: str, rarity: dict[str, int]) -> str:
    pieces = [_MARKS.sub("", piece) for piece in _PIECE.findall(text)]
    long = [piece for piece in pieces if len(piece) > 2 and piece.lower() not in STOP_WORDS]
    return min(long, key=lambda piece: (rarity.get(piece.lower(), 0), piece), default="")
