"""BM25 hard negatives: what a lexical search finds for a query besides its positives."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tdro_lightning.data.example import Passage, Row, passage_text
from tdro_lightning.data.jsonl import read_rows, write_rows
from tdro_lightning.data.normalisation import normalise
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.files import write_json
from tdro_lightning.retrieval.bm25 import BM25, analyse

NEAR_DUPLICATE_JACCARD = 0.8
QUERIES_AT_ONCE = 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pool:
    """The distinct passages of a domain, in an order that does not depend on the rows' order."""

    passages: list[Passage]
    texts: list[str]
    by_text: dict[str, int]
    by_docid: dict[str, set[int]]

    def places(self, passage: Passage) -> set[int]:
        """Indices of the pool passages with this passage's docid or normalised text."""
        same_docid = self.by_docid.get(passage["docid"], set())
        return same_docid | {self.by_text[normalise(passage_text(passage))]}


def near_duplicates(one: str, other: str) -> bool:
    """Whether two texts share 0.8 of their BM25 terms, or one's terms run through the other's."""
    terms, sequence = _terms(one)
    other_terms, other_sequence = _terms(other)
    if not terms or not other_terms:
        return False
    if sequence in other_sequence or other_sequence in sequence:
        return True
    shared = len(terms & other_terms)
    return shared >= NEAR_DUPLICATE_JACCARD * (len(terms) + len(other_terms) - shared)


def mine_domain(
    rows: Sequence[Row], count: int, depth: int, seed: int
) -> tuple[list[Row], dict[str, int]]:
    """Return the rows with `count` mined negatives each, and how these came about.

    Candidates are the `depth` best BM25 hits among all passages of the domain, best first, without
    the positives of any row with this query, the query's own text, and near-duplicates of a
    positive. Rows left with too few are filled with random passages under the same exclusions.
    What a row gets does not depend on the order of the rows.

    Returns:
        New rows, and the counts `rows`, `pool` (passages), `bm25` and `random_fill` (negatives),
        `skipped_positive` and `skipped_near_duplicate` (BM25 hits passed over).

    Raises:
        ConfigError: `count` is below 1, `depth` is below `count`, or `seed` is below 0.
        DataError: there are no rows, or too few passages that could be a negative.
    """
    if not 1 <= count <= depth or seed < 0:
        raise ConfigError(
            f"mining needs 1 <= count <= depth and seed >= 0, got {count=}, {depth=}, {seed=}"
        )
    if not rows:
        raise DataError("no rows to mine negatives for: the pool of passages is empty")
    pool = _pool(rows)
    positives = _positives(rows, pool)
    index = BM25(pool.texts)
    seen = Counter[str]()
    mined: list[Row] = []
    for start in range(0, len(rows), QUERIES_AT_ONCE):
        logger.info("%d of %d queries mined", start, len(rows))
        part = rows[start : start + QUERIES_AT_ONCE]
        _, hits = index.search([row["query"] for row in part], depth)
        for row, found in zip(part, hits, strict=True):
            known = positives[normalise(row["query"])]
            ranked = found[found >= 0].tolist()
            mined.append(_with_negatives(row, ranked, count, known, pool, seed, seen))
    names = ("bm25", "random_fill", "skipped_positive", "skipped_near_duplicate")
    counts = {name: seen[name] for name in names}
    return mined, {"rows": len(rows), "pool": len(pool.texts)} | counts


def mine(
    source: Path | Mapping[str, Path], output: Path, count: int, depth: int, seed: int
) -> dict[str, Any]:
    """Mine negatives for one domain after the other and write `<domain>.jsonl.gz` files.

    Args:
        source: a folder of `.jsonl` and `.jsonl.gz` files, or the file of each domain.
        output: folder to write to; `mining.json` there gets what is returned.
        count, depth, seed: as in `mine_domain`.

    Raises:
        ConfigError: as in `mine_domain`.
        DataError: as in `mine_domain`, or there is no file, or one would be written over.
    """
    files = dict(source) if isinstance(source, Mapping) else _domain_files(source)
    if not files:
        raise DataError(f"{source}: no .jsonl or .jsonl.gz file to mine negatives for")
    domains = {}
    for name, path in files.items():
        logger.info("%s: reading its rows", name)
        target = output / f"{name}.jsonl.gz"
        if target.resolve() == path.resolve():
            raise DataError(f"{path}: mining would write over its input; choose another output")
        try:
            rows, domains[name] = mine_domain([r for _, r in read_rows(path)], count, depth, seed)
        except DataError as error:
            message = str(error)
            raise DataError(message if str(path) in message else f"{path}: {message}") from None
        write_rows(target, rows)
    statistics = {"count": count, "depth": depth, "seed": seed, "domains": domains}
    write_json(output / "mining.json", statistics)
    return statistics


def _pool(rows: Sequence[Row]) -> Pool:
    passages: dict[str, Passage] = {}
    docids: dict[str, set[str]] = {}
    keys: dict[str, str] = {}
    for row in rows:
        for given in (*row["positive_passages"], *row["negative_passages"]):
            text = passage_text(given)
            if text not in keys:
                keys[text] = normalise(text)
            key = keys[text]
            # A score belongs to a pair of query and passage, so the pool's passages have none.
            bare = Passage(docid=given["docid"], title=given["title"], text=given["text"])
            passages[key] = min(passages.get(key, bare), bare, key=_order)
            if given["docid"]:
                docids.setdefault(given["docid"], set()).add(key)
    by_text = {key: place for place, key in enumerate(sorted(passages))}
    chosen = [passages[key] for key in by_text]
    by_docid = {docid: {by_text[key] for key in found} for docid, found in docids.items()}
    return Pool(chosen, [passage_text(p) for p in chosen], by_text, by_docid)


def _order(passage: Passage) -> tuple[bool, str, str, str]:
    return not passage["docid"], passage["docid"], passage["title"], passage["text"]


def _positives(rows: Sequence[Row], pool: Pool) -> dict[str, set[int]]:
    positives: dict[str, set[int]] = {}
    for row in rows:
        known = positives.setdefault(normalise(row["query"]), set())
        for passage in row["positive_passages"]:
            known |= pool.places(passage)
    return positives


def _with_negatives(
    row: Row,
    ranked: list[int],
    count: int,
    known: set[int],
    pool: Pool,
    seed: int,
    seen: Counter[str],
) -> Row:
    own = pool.by_text.get(normalise(row["query"]))
    chosen = _take(ranked, count, known, {own}, pool, seen)
    seen["bm25"] += len(chosen)
    if len(chosen) < count:
        rest = count - len(chosen)
        seen["random_fill"] += rest
        places = _shuffled(row, len(pool.texts), seed)
        chosen += _take(places, rest, known, {own, *chosen}, pool, Counter())
    if len(chosen) < count:
        raise DataError(
            f"query_id {row['query_id']!r}: {count} negatives wanted, but only {len(chosen)} of "
            f"the domain's {len(pool.texts)} passages can be one; lower `count` or add passages"
        )
    return Row(
        query_id=row["query_id"],
        query=row["query"],
        positive_passages=row["positive_passages"],
        negative_passages=[pool.passages[place] for place in chosen],
    )


def _take(
    places: Iterable[int],
    count: int,
    known: set[int],
    used: set[int | None],
    pool: Pool,
    seen: Counter[str],
) -> list[int]:
    """The first `count` places that may be negatives; the others before them go into `seen`."""
    chosen: list[int] = []
    for place in places:
        if len(chosen) == count:
            break
        if place in known:
            seen["skipped_positive"] += 1
        elif place in used:
            continue
        elif any(near_duplicates(pool.texts[place], pool.texts[other]) for other in known):
            seen["skipped_near_duplicate"] += 1
        else:
            chosen.append(place)
    return chosen


def _shuffled(row: Row, size: int, seed: int) -> list[int]:
    name = hashlib.sha256(f"{row['query_id']}\0{row['query']}".encode()).digest()
    generator = np.random.default_rng([seed, int.from_bytes(name[:8], "big")])
    return generator.permutation(size).tolist()


@lru_cache(maxsize=1 << 15)
def _terms(text: str) -> tuple[frozenset[str], str]:
    terms = analyse(text)
    return frozenset(terms), f" {' '.join(terms)} "


def _domain_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files: dict[str, Path] = {}
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")]):
        name = path.name.removesuffix(".gz").removesuffix(".jsonl")
        if name in files:
            raise DataError(f"domain {name!r} has two files: {files[name]} and {path}")
        files[name] = path
    return files
