"""The demo's training domains and evaluation sets, written from the user's standard library."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.demo import sources
from tdro_lightning.demo.domains import Pair, manual_pairs, module_pairs
from tdro_lightning.demo.selection import distinct, keys, split
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.files import fingerprint, write_json, write_text

MINIMUM_ROWS = 150
MINIMUM_QUERIES = 100
EVALUATION_QUERIES = 250
EVALUATION_DOCUMENTS = 2000


@dataclass(frozen=True)
class Domain:
    """What a domain holds, its largest size as a share of `max_rows`, and whether it is a set."""

    share: float
    description: str
    evaluated: bool = False


# Unequal on purpose: the easiest domain is the largest, as with web-scale sets beside small ones.
DOMAINS = {
    "content_words": Domain(1.0, "a sentence without its function words; the sentence"),
    "name_doc": Domain(0.8, "the qualified name of an object; its docstring", True),
    "summary_body": Domain(0.6, "the summary of a docstring; the rest of it", True),
    "comment_code": Domain(0.5, "a comment; the code below it", True),
    "summary_code": Domain(0.4, "the summary of a function; its code, no docstring", True),
    "parameter": Domain(0.3, "a parameter or option and where it stands; its description"),
    "exception_code": Domain(0.3, "an error message; the code that raises it, without the raise"),
    "section": Domain(0.25, "title and first sentence of a manual's passage; what follows"),
    "exception_doc": Domain(0.2, "an error message; the docstring of the function that raises it"),
}


def harvest(
    output: Path, library: Path | None = None, max_rows: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Write `train/<domain>.jsonl.gz`, BEIR folders `eval/<set>/` and `manifest.json`.

    Source files are parsed, never imported. The split is by module and topic, and no
    evaluation text equals a training text after `normalised`. The same files and arguments give the
    same bytes.

    Args:
        output: folder to write to.
        library: folder that holds modules and packages; the interpreter's standard library where
            None, so that what is installed beside it changes nothing.
        max_rows: size of the largest domain; `DOMAINS` says which share of it the others get.
        seed: chooses among the pairs found, not between training and evaluation.

    Returns:
        The manifest: counts by domain and set, Python's version, SHA-256 of each file written.

    Raises:
        ConfigError: `max_rows` is not positive.
        DataError: there is no such folder, or a domain or set ends up too small.
    """
    if max_rows < 1:
        raise ConfigError(f"max_rows={max_rows}: must be at least 1")
    library = sources.standard_library() if library is None else library
    files = sources.python_files(library)
    pairs = [pair for module in sources.modules(files) for pair in module_pairs(module)]
    pairs += [pair for manual in sources.manuals(library) for pair in manual_pairs(manual)]
    train, held_out = split(pairs)
    domains = {
        name: _train_rows(name, train, round(max_rows * domain.share), seed)
        for name, domain in DOMAINS.items()
    }
    used = {text for rows in domains.values() for pair in rows for text in keys(pair)}
    sets = {
        name: _evaluation_set(name, held_out, used, seed)
        for name, domain in DOMAINS.items()
        if domain.evaluated
    }
    manifest = {
        "python": platform.python_version(),
        "max_rows": max_rows,
        "seed": seed,
        "source_files": len(files),
        "library": sources.identity(library),
        **_written(output, domains, sets),
    }
    write_json(output / "manifest.json", manifest)
    return manifest


def _written(
    output: Path, domains: dict[str, list[Pair]], sets: dict[str, tuple[list[Pair], list[Pair]]]
) -> dict[str, Any]:
    paths = []
    for name, rows in domains.items():
        paths.append(output / "train" / f"{name}.jsonl.gz")
        write_rows(paths[-1], map(_row, range(len(rows)), rows))
    for name, (queries, documents) in sets.items():
        paths += _write_set(output / "eval" / name, queries, documents)
    return {
        "domains": {
            name: {"rows": len(rows), "description": DOMAINS[name].description}
            for name, rows in domains.items()
        },
        "sets": {
            name: {"queries": len(queries), "documents": len(documents)}
            for name, (queries, documents) in sets.items()
        },
        "sha256": {path.relative_to(output).as_posix(): fingerprint(path) for path in paths},
    }


def _train_rows(name: str, pairs: list[Pair], limit: int, seed: int) -> list[Pair]:
    kept = distinct([pair for pair in pairs if pair.domain == name], limit, set(), seed)
    if len(kept) < min(MINIMUM_ROWS, limit):
        raise DataError(
            f"domain {name}: {len(kept)} distinct rows, at least {min(MINIMUM_ROWS, limit)} are "
            f"needed ({DOMAINS[name].description}); harvest from a library with more Python source"
        )
    return kept


def _evaluation_set(
    name: str, pairs: list[Pair], used: set[str], seed: int
) -> tuple[list[Pair], list[Pair]]:
    """(pairs whose queries are asked, pairs whose documents are searched).

    Distinct queries and documents throughout, so that no document is a second right answer only
    because it goes with the same words.
    """
    pool = [pair for pair in pairs if pair.domain == name]
    documents = distinct(pool, EVALUATION_DOCUMENTS, used, seed)
    if len(documents) < MINIMUM_QUERIES:
        raise DataError(
            f"evaluation set {name}: {len(documents)} distinct queries, at least {MINIMUM_QUERIES} "
            f"are needed; harvest from a library with more Python source"
        )
    return documents[:EVALUATION_QUERIES], sorted(documents, key=lambda pair: pair.place)


def _row(number: int, pair: Pair) -> dict[str, Any]:
    positive = {"docid": pair.place, "title": "", "text": pair.document}
    return {
        "query_id": f"{pair.domain}-{number}",
        "query": pair.query,
        "positive_passages": [positive],
        "negative_passages": [],
    }


def _write_set(folder: Path, queries: list[Pair], documents: list[Pair]) -> list[Path]:
    ids = {pair: f"{pair.place}#{number}" for number, pair in enumerate(documents)}
    paths = [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "test.tsv"]
    write_rows(paths[0], ({"_id": ids[p], "title": "", "text": p.document} for p in documents))
    write_rows(paths[1], ({"_id": f"q{i}", "text": p.query} for i, p in enumerate(queries)))
    lines = [f"q{i}\t{ids[pair]}\t1\n" for i, pair in enumerate(queries)]
    write_text(paths[2], "query-id\tcorpus-id\tscore\n" + "".join(lines))
    return paths
