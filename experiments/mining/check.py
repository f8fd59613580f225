"""Look for positives among mined negatives: `python experiments/mining/check.py MINED ROWS`.

Nothing of the miner is used: texts are split, compared and counted here, each negative in the
folder MINED with every positive that any row of its domain in the folder ROWS has for the same
query. Prints a line a domain.
"""

import gzip
import json
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import Stemmer

STOP_WORDS = """
    a also an and are as at be been but by can could did do does for from had has have he how i if
    in into is it its may more no not of on or other our she should so such than that the their then
    there these they this to was we were what when where which who whose why will with would you
    your
"""
STOP = set(STOP_WORDS.split())
STEM = Stemmer.Stemmer("english")
COLUMNS = ("rows", "negatives", "known id", "known text", "query", "terms", "run", "trigrams 0.8")


def plain(text: str) -> str:
    """What stands there, without case, width and spacing."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def is_unspaced(character: str) -> bool:
    """Whether a letter is of a script without spaces (or Hangul)."""
    name = unicodedata.name(character, "")
    starts = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "IDEOGRAPHIC ITERATION", "BOPOMOFO")
    return name.startswith(starts) and unicodedata.category(character)[0] in "LMN"


def terms(text: str) -> list[str]:
    """Stems of words that are no stop words; character pairs of unspaced scripts."""
    found: list[str] = []
    word = run = ""
    for character in f"{plain(text)} ":
        if run and not is_unspaced(character):
            found += [run[i : i + 2] for i in range(max(len(run) - 1, 1))]
            run = ""
        inside = character.isalnum() or (word and unicodedata.category(character)[0] == "M")
        if word and (not inside or is_unspaced(character)):
            found += [] if word in STOP else [STEM.stemWord(word)]
            word = ""
        if is_unspaced(character):
            run += character
        elif inside:
            word += character
    return found


def trigrams(text: str) -> set[str]:
    """All runs of three letters and digits."""
    letters = re.sub(r"\W+", " ", plain(text))
    return {letters[i : i + 3] for i in range(len(letters) - 2)}


def jaccard(one: set[str], other: set[str]) -> float:
    """Share of the union that both have."""
    return len(one & other) / len(one | other) if one | other else 0.0


def read(path: Path) -> list[dict]:
    """The rows of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def check(rows: list[dict], given: list[dict]) -> Counter[str]:
    """Counts of one domain's mined rows; positives are those of the given ones."""
    positives: dict[str, list[dict]] = defaultdict(list)
    for row in given:
        positives[plain(row["query"])] += row["positive_passages"]
    cache: dict[str, tuple] = {}

    def seen(text: str) -> tuple:
        if text not in cache:
            split = terms(text)
            cache[text] = set(split), f"|{'|'.join(split)}|", trigrams(text), plain(text)
        return cache[text]

    counts: Counter[str] = Counter()
    for row in rows:
        known = positives[plain(row["query"])]
        ids = {p["docid"] for p in known if p["docid"]}
        theirs = [seen(text) for text in {whole(p) for p in known}]
        counts["rows"] += 1
        for negative in row["negative_passages"]:
            own = seen(whole(negative))
            counts["negatives"] += 1
            counts["known id"] += negative["docid"] in ids
            counts["known text"] += any(own[3] == other[3] for other in theirs)
            counts["query"] += own[3] == plain(row["query"])
            counts["terms"] += any(jaccard(own[0], other[0]) >= 0.8 for other in theirs)
            counts["run"] += any(
                len(a[0]) * len(b[0]) and a[1] in b[1]
                for other in theirs
                for a, b in ((own, other), (other, own))
            )
            counts["trigrams 0.8"] += any(jaccard(own[2], other[2]) >= 0.8 for other in theirs)
    return counts


def whole(passage: dict) -> str:
    """Title and text."""
    return f"{passage['title']} {passage['text']}".strip()


if __name__ == "__main__":
    total: Counter[str] = Counter()
    print(f"{'domain':22}" + "".join(f"{name:>14}" for name in COLUMNS))
    for file in sorted(Path(sys.argv[1]).glob("*.jsonl.gz")):
        found = check(read(file), read(Path(sys.argv[2]) / file.name))
        total += found
        line = "".join(f"{found[name]:>14,}" for name in COLUMNS)
        print(f"{file.name.removesuffix('.jsonl.gz'):22}{line}", flush=True)
    print(f"{'all':22}" + "".join(f"{total[name]:>14,}" for name in COLUMNS))
