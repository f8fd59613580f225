"""Tables of how training data was prepared: what mining found and decontamination dropped."""

from collections.abc import Mapping
from typing import Any

from tdro_lightning.report.tables import Column, Table, cells

COUNTS = {
    "rows": ("rows", ""),
    "pool": ("pool", "passages"),
    "pool_left_out": ("pool", "without text"),
    "searched": ("negatives", "found"),
    "random": ("negatives", "random"),
    "skipped_rank": ("skipped", "rank"),
    "skipped_positive": ("skipped", "positive"),
    "skipped_query": ("skipped", "query"),
    "skipped_near_duplicate": ("skipped", "near-duplicate"),
    "skipped_max_score": ("skipped", "max score"),
    "skipped_margin": ("skipped", "margin"),
    "skipped_ratio": ("skipped", "ratio"),
    "short": ("rows", "with fewer"),
    "without": ("rows", "left out"),
}


def mining_table(content: Mapping[str, Any]) -> Table:
    """The table of `mining.json`: a row a domain, and of the counts those that are not all 0."""
    domains = content["domains"]
    shown = [name for name in COUNTS if any(counts.get(name) for counts in domains.values())]
    return Table(
        title="Mined negatives",
        caption="Skipped are passages that would have been taken before the last one that was.",
        columns=(
            Column("domain", numeric=False),
            *(Column(title, note) for title, note in (COUNTS[name] for name in shown)),
        ),
        rows=tuple(
            cells([domain, *(f"{counts.get(name, 0):,}" for name in shown)])
            for domain, counts in domains.items()
        ),
    )


def contamination_tables(content: Mapping[str, Any]) -> tuple[Table, Table]:
    """Two tables from the content of `decontamination.json`: by domain, and by domain and set."""
    return _by_domain(content), _by_set(content)


def _by_domain(content: Mapping[str, Any]) -> Table:
    settings = content["settings"]
    counts = list(content["domains"].items())
    if len(counts) > 1:
        counts.append(("all", _sum([entry for _, entry in counts])))
    return Table(
        title="Dropped by domain",
        caption=(
            "A row goes where its query matches the evaluation, or where no positive or no "
            "negative is left without the passages that match; otherwise such passages go alone. "
            "Texts are counted by their first match: exact after normalisation, SimHash within "
            f"{settings['simhash_distance']} of 64 bits, shingles with a Jaccard similarity of "
            f"{settings['jaccard']} or more. Compared with all evaluation queries and with "
            f"{settings['documents']} documents."
        ),
        columns=(
            Column("domain", numeric=False),
            Column("rows"),
            Column("kept"),
            Column("rows dropped", "query"),
            Column("rows dropped", "positives"),
            Column("rows dropped", "negatives"),
            Column("positives dropped", "of kept rows"),
            Column("negatives dropped", "of kept rows"),
            Column("exact"),
            Column("SimHash"),
            Column("MinHash"),
        ),
        rows=tuple(
            cells(
                [
                    name,
                    *(str(entry[key]) for key in ("rows", "kept")),
                    *(str(n) for n in entry["dropped_rows"].values()),
                    *(str(n) for n in entry["dropped_passages"].values()),
                    *(str(n) for n in entry["methods"].values()),
                ]
            )
            for name, entry in counts
        ),
    )


def _by_set(content: Mapping[str, Any]) -> Table:
    sizes = content["evaluation"]
    return Table(
        title="Matches by domain and evaluation set",
        caption=(
            "Rows of the domain in which the query, a positive or a negative matches a query or "
            "document of the set; pairs without any are left out."
        ),
        columns=(
            Column("domain", numeric=False),
            Column("set", numeric=False),
            Column("queries", "of the set"),
            Column("documents", "of the set"),
            Column("by query"),
            Column("by positive"),
            Column("by negative"),
        ),
        rows=tuple(
            cells(
                [
                    name,
                    found,
                    str(sizes[found]["queries"]),
                    str(sizes[found]["documents"]),
                    *(str(parts[part]) for part in ("query", "positive", "negative")),
                ]
            )
            for name, entry in content["domains"].items()
            for found, parts in entry["sets"].items()
        ),
    )


def _sum(entries: list[Mapping[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {key: sum(e[key] for e in entries) for key in ("rows", "kept")}
    for group in ("dropped_rows", "dropped_passages", "methods"):
        total[group] = {name: sum(e[group][name] for e in entries) for name in entries[0][group]}
    return total
