"""The demo's training domains and evaluation sets, written from the user's standard library."""

import hashlib
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tdro_lightning.data.beir_files import HEADER
from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.demo import sources
from tdro_lightning.demo.pairs import Pair, module_pairs, section_pairs
from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint, write_json, write_text

EVALUATION_SHARE = 0.3
MINIMUM_ROWS = 150
MINIMUM_QUERIES = 100
EVALUATION_QUERIES = 250
EVALUATION_DOCUMENTS = 2000


@dataclass(frozen=True)
class DemoDomain:
    """What a domain holds, its largest size as a share of `max_rows`, and whether it is a set."""

    share: float
    description: str
    evaluated: bool = False


# Unequal on purpose: the easiest domain is the largest, as with web-scale sets beside small ones.
DOMAINS = {
    "content_words": DemoDomain(1.0, "a sentence without its function words; the sentence"),
    "name_doc": DemoDomain(0.8, "the qualified name of an object; its docstring", True),
    "summary_body": DemoDomain(0.6, "the summary of a docstring; the rest of it", True),
    "comment_code": DemoDomain(0.5, "a comment; the code below it", True),
    "summary_code": DemoDomain(0.4, "the summary of a function; its code, no docstring", True),
    "parameter": DemoDomain(0.3, "a parameter or option and where it stands; its description"),
    "exception_code": DemoDomain(
        0.3, "an error message; the code that raises it, without the raise"
    ),
    "section": DemoDomain(0.25, "title and first sentence of a manual's passage; what follows"),
    "exception_doc": DemoDomain(
        0.2, "an error message; the docstring of the function that raises it"
    ),
}


def harvest(
    output: Path, library: Path | None = None, max_rows: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Write `train/<domain>.jsonl.gz`, BEIR folders `eval/<set>/` and `manifest.json`.

    Source files are parsed, never imported. The split is by module and topic, and no
    evaluation text equals a training text after `normalise_words`. The same files and arguments
    give the same bytes.

    Args:
        output: folder to write to.
        library: folder that holds modules and packages; the interpreter's standard library where
            None, so that what is installed beside it changes nothing.
        max_rows: size of the largest domain, at least 1; the others get the shares in `DOMAINS`.
        seed: chooses among the pairs found, not between training and evaluation.

    Returns:
        The manifest: counts by domain and set, Python's version, SHA-256 of each file written.

    Raises:
        DataError: there is no such folder, or a domain or set ends up too small.
    """
    library = sources.standard_library() if library is None else library
    files = sources.python_files(library)
    pairs = [pair for module in sources.modules(files) for pair in module_pairs(module)]
    for name, title, text in sources.manuals(library):
        pairs += section_pairs(name, name.lower(), title, text)
    train, held_out = split(pairs)
    domains = {
        name: select_distinct(
            [pair for pair in train if pair.domain == name],
            round(max_rows * domain.share),
            set(),
            seed,
        )
        for name, domain in DOMAINS.items()
    }
    used = {text for rows in domains.values() for pair in rows for text in keys(pair)}
    sets = {
        name: select_distinct(
            [pair for pair in held_out if pair.domain == name], EVALUATION_DOCUMENTS, used, seed
        )
        for name, domain in DOMAINS.items()
        if domain.evaluated
    }
    for name, rows in domains.items():
        least = min(MINIMUM_ROWS, round(max_rows * DOMAINS[name].share))
        _require_enough(f"domain {name}", rows, "rows", least, DOMAINS[name])
    for name, rows in sets.items():
        _require_enough(f"evaluation set {name}", rows, "queries", MINIMUM_QUERIES, DOMAINS[name])
    manifest = {
        "python": platform.python_version(),
        "max_rows": max_rows,
        "seed": seed,
        "source_files": len(files),
        "library": sources.identity(library),
        **_write(output, domains, sets),
    }
    write_json(output / "manifest.json", manifest)
    return manifest


def _write(
    output: Path, domains: dict[str, list[Pair]], sets: dict[str, list[Pair]]
) -> dict[str, Any]:
    """Write all domains and sets; returns their sizes, and the checksum of each file."""
    paths = []
    for name, rows in domains.items():
        paths.append(output / "train" / f"{name}.jsonl.gz")
        write_rows(paths[-1], map(_row, range(len(rows)), rows))
    for name, documents in sets.items():
        paths += _write_set(output / "eval" / name, documents)
    return {
        "domains": {
            name: {"rows": len(rows), "description": DOMAINS[name].description}
            for name, rows in domains.items()
        },
        "sets": {
            name: {"queries": len(rows[:EVALUATION_QUERIES]), "documents": len(rows)}
            for name, rows in sets.items()
        },
        "sha256": {path.relative_to(output).as_posix(): fingerprint(path) for path in paths},
    }


def normalise_words(text: str) -> str:
    """The words of `text` in lower case: what two texts share when they count as the same."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def split(pairs: Iterable[Pair]) -> tuple[list[Pair], list[Pair]]:
    """(training pairs, evaluation pairs) by a hash of each pair's group."""
    train: list[Pair] = []
    held_out: list[Pair] = []
    for pair in pairs:
        digest = hashlib.sha256(pair.group.encode()).digest()
        part = int.from_bytes(digest[:8]) / 2**64
        (held_out if part < EVALUATION_SHARE else train).append(pair)
    return train, held_out


def select_distinct(pairs: Sequence[Pair], limit: int, used: set[str], seed: int) -> list[Pair]:
    """Up to `limit` pairs in a seeded order, each query and each document once.

    A pair is left out where its query or document is in `used` or where the two are equal. The
    texts that count as equal are those of `normalise_words`.
    """
    queries: set[str] = set()
    documents: set[str] = set()
    kept: list[Pair] = []
    for i in np.random.default_rng(seed).permutation(len(pairs)):
        query, document = keys(pairs[i])
        if len(kept) == limit:
            break
        repeats = query == document or query in queries or document in documents
        if not repeats and used.isdisjoint((query, document)):
            queries.add(query)
            documents.add(document)
            kept.append(pairs[i])
    return kept


def keys(pair: Pair) -> tuple[str, str]:
    """Query and document of a pair, as they are compared."""
    return normalise_words(pair.query), normalise_words(pair.document)


def _require_enough(
    what: str, pairs: Sequence[Pair], unit: str, least: int, domain: DemoDomain
) -> None:
    if len(pairs) < least:
        raise DataError(
            f"{what}: {len(pairs)} distinct {unit}, at least {least} are needed "
            f"({domain.description}); harvest from a library with more Python source"
        )


def _row(number: int, pair: Pair) -> dict[str, Any]:
    return {
        "query_id": f"{pair.domain}-{number}",
        "query": pair.query,
        "positive_passages": [{"docid": pair.place, "title": "", "text": pair.document}],
        "negative_passages": [],
    }


def _write_set(folder: Path, pairs: list[Pair]) -> list[Path]:
    """Write the documents of all pairs and the queries of the first; returns the files.

    Queries and documents are distinct throughout, so that no document is a second right answer only
    because it goes with the same words.
    """
    queries, documents = pairs[:EVALUATION_QUERIES], sorted(pairs, key=lambda pair: pair.place)
    ids = {pair: f"{pair.place}#{number}" for number, pair in enumerate(documents)}
    paths = [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "test.tsv"]
    write_rows(paths[0], ({"_id": ids[p], "title": "", "text": p.document} for p in documents))
    write_rows(paths[1], ({"_id": f"q{i}", "text": p.query} for i, p in enumerate(queries)))
    lines = [f"q{i}\t{ids[pair]}\t1\n" for i, pair in enumerate(queries)]
    write_text(paths[2], f"{HEADER}\n" + "".join(lines))
    return paths
