"""Seconds of our tDRO step against the batch size and against the number of domains."""

import statistics
from dataclasses import replace
from typing import Any

import numpy as np
from steps import DOMAINS
from workbench import Case, Workbench

from tdro_lightning.report.tables import Column, Table, cells

BATCHES = (64, 128, 256, 512, 1024)
DOMAIN_COUNTS = (5, 10, 25, 50, 100)
NEGATIVES = 1
QUERIES = 100  # in a batch, where the number of domains changes


def scaled(bench: Workbench) -> dict[str, Any]:
    """Times and their fits, over batches in turn, then over numbers of domains in turn.

    All activations but one chunk's are computed again: what a memory holds ends somewhere between
    the smallest batch and the largest. Larger batches repeat the rows of the smallest.
    """
    settings, repeats = bench.settings("tdro"), bench.choice.repeats
    rows = bench.examples(BATCHES[0], NEGATIVES, DOMAINS)
    sizes = {str(n): [bench.batch(rows * (n // BATCHES[0]))] * (1 + repeats) for n in BATCHES}
    case = Case(module=bench.tdro(settings, DOMAINS), batches=sizes)
    by_batch = bench.seconds(case, 1 + repeats, sizes)

    rows = bench.examples(QUERIES, NEGATIVES, DOMAINS)
    cases = []
    for count in DOMAIN_COUNTS:
        batch = bench.batch([replace(row, domain=i % count) for i, row in enumerate(rows)])
        cases.append(Case(module=bench.tdro(settings, count), batches={str(count): [batch] * 2}))
    by_domains: dict[str, list[float]] = {str(count): [] for count in DOMAIN_COUNTS}
    for _ in range(repeats):
        for case in cases:
            ((name, taken),) = bench.seconds(case, 2, case.batches).items()
            by_domains[name].append(taken[1])
    return {
        "batch": _fit({name: taken[1:] for name, taken in by_batch.items()}),
        "domains": _fit(by_domains),
    }


def _fit(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """A line through the medians, with the least sum of squared relative residuals."""
    x = np.array([float(name) for name in seconds])
    y = np.array([statistics.median(taken) for taken in seconds.values()])
    slope, constant = np.polyfit(x, y, 1, w=1 / y)
    line = constant + slope * x
    return {
        "seconds": seconds,
        "line": line.tolist(),
        "largest_residual": float(abs(y / line - 1).max()),
    }


def scaling_table(title: str, fit: dict[str, Any]) -> Table:
    """Medians, their spread and the line, one row a size."""
    columns = (
        Column(title),
        Column("step", "s"),
        Column("min to max", "s"),
        Column("line", "s"),
        Column("off the line", "%"),
    )
    rows = []
    for (name, taken), line in zip(fit["seconds"].items(), fit["line"], strict=True):
        median, off = statistics.median(taken), 100 * (statistics.median(taken) / line - 1)
        spread = f"{min(taken):.3f} to {max(taken):.3f}"
        rows.append(cells((name, f"{median:.3f}", spread, f"{line:.3f}", f"{off:+.1f}")))
    return Table(f"tDRO step against {title}", "", columns, tuple(rows))
