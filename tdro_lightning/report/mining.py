"""What mining found for each domain, and what it passed over, as a table."""

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
