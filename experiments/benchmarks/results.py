"""Ratios of what was measured, their table, and what they were measured with."""

import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from contenders import (
    DEEP,
    ENCODING,
    FIRST_RUN,
    PADDED,
    REPEATED,
    SECOND_RUN,
    TDRO,
    TDRO_FLOOR,
    THEIR_BEST,
    THEIR_DEEP,
    THEIR_ENCODING,
    THEIR_STEP,
    TUNING,
    TUNING_FLOOR,
)

from tdro_lightning.report.tables import NOTHING, Column, Table, cells
from tdro_lightning.runs.record import git_commit, hardware

PACKAGES = ("torch", "lightning", "transformers", "sentence-transformers", "peft")
COMPARISONS = (  # ours, the other, whether the ratio is ours / other, what it should be
    (TDRO, TDRO_FLOOR, True, "≤ 1.10"),
    (TUNING, TUNING_FLOOR, True, "≤ 1.10"),
    (TUNING, THEIR_STEP, False, "≥ 1.50"),
    (TUNING, THEIR_BEST, False, "≥ 1.50"),
    (DEEP, THEIR_DEEP, False, "≥ 1.00"),
    (TDRO, PADDED, False, "≥ 1.50"),
    (ENCODING, THEIR_ENCODING, False, "≥ 1.00"),
    (SECOND_RUN, FIRST_RUN, True, "≤ 0.75"),
    *(
        (once, each, *((False, "≥ 4.00") if name == "arcd" else (True, "≤ 1.02")))
        for (_, name), (once, each) in REPEATED.items()
    ),
)


def comparisons(taken: dict[str, list[float]], memory: dict[str, float]) -> list[dict[str, Any]]:
    """Each comparison's medians, ratios and memory.

    Args:
        taken: seconds of each contender in each round.
        memory: MB that each contender adds; empty where that was not measured.
    """
    found = []
    for ours, other, over_other, goal in COMPARISONS:
        above, below = (ours, other) if over_other else (other, ours)
        ratios = [a / b for a, b in zip(taken[above], taken[below], strict=True)]
        found.append(
            {
                "comparison": f"{above} / {below}",
                "seconds": statistics.median(taken[ours]),
                "other_seconds": statistics.median(taken[other]),
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "goal": goal,
                "peak_mb": memory.get(ours),
                "other_peak_mb": memory.get(other),
            }
        )
    return found


def comparison_table(found: list[dict[str, Any]]) -> Table:
    """One row a comparison."""
    columns = (
        Column("comparison", numeric=False),
        Column("ours", "s"),
        Column("other", "s"),
        Column("ratio"),
        Column("min to max"),
        Column("goal"),
        Column("ours adds", "MB"),
        Column("other adds", "MB"),
    )

    def shown(row: dict[str, Any]) -> tuple[str, ...]:
        peaks = (row["peak_mb"], row["other_peak_mb"])
        return (
            row["comparison"],
            *(f"{row[key]:.3f}" for key in ("seconds", "other_seconds")),
            f"{row['ratio']:.2f}",
            f"{row['lowest']:.2f} to {row['highest']:.2f}",
            row["goal"],
            *(NOTHING if value is None else f"{value:,.0f}" for value in peaks),
        )

    return Table("", "", columns, tuple(cells(shown(row)) for row in found))


def surroundings() -> dict[str, Any]:
    """What the figures depend on besides the settings."""
    return {
        "threads": torch.get_num_threads(),
        "hardware": {**hardware(), "processor": _processor()},
        "versions": {"python": sys.version.split()[0], **{p: version(p) for p in PACKAGES}},
        "commit": git_commit(),
    }


def notes(values: dict[str, Any]) -> str:
    """Named values as a list in Markdown."""
    lines = []
    for name, value in values.items():
        listed = value.items() if isinstance(value, dict) else [("", value)]
        shown = (f"{k} {f'{v:.3g}' if isinstance(v, float) else v}".strip() for k, v in listed)
        lines.append(f"* {name.replace('_', ' ')}: {', '.join(shown)}")
    return "\n".join(lines)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
