"""The paper's printed tables, which are shipped beside this module, as rows of cells."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any

from tdro_lightning.files import read_json
from tdro_lightning.report.tables import NOTHING, Cell

FILE = Path(__file__).parent / "published" / "tdro.json"
PAPER = "arXiv 2408.10613"
ROWS = {  # the paper's name of a base model, by that of the hub
    "Qwen1.5-0.5B": "Qwen-0.5B",
    "Qwen1.5-1.8B": "Qwen-1.8B",
    "Qwen1.5-4B": "Qwen-4B",
    "Qwen1.5-7B": "Qwen-7B",
    "Mistral-7B-v0.1": "Mistral-7B",
    "Llama-3-8B": "Llama3-8B",
    "Meta-Llama-3-8B": "Llama3-8B",
}
SECTIONS = {  # the heading of its rows in the tables, by what a model's name has around its base
    ("s0-baseline", ""): "Uniform Sampling Baselines",
    ("s2-tdro", "-top70"): "tDRO - Dataset Selection Top-70%",
    ("s2-tdro", "-curr"): "tDRO - Sample Ratio Reweighting",
}
CACHED = "models--tdro-llm--"  # how the hub's cache begins the name of a repository's folder
Row = tuple[Cell, ...]
_NAME = re.compile(
    rf"(?P<kind>s0-baseline|s2-tdro)-(?P<base>{'|'.join(map(re.escape, ROWS))})"
    r"(?P<how>-top70|-curr)?"
)


@dataclass(frozen=True)
class PublishedModel:
    """A published model's name on the hub, and where the paper's tables have it.

    Attributes:
        name: without the owner's.
        base: its base model's name on the hub, without the owner's.
        section: heading of its rows.
        row: name of its row below that.
    """

    name: str
    base: str
    section: str
    row: str


@cache
def read_paper_tables() -> Mapping[str, Any]:
    """The content of the file: `tables` by number, `paper`, `note`."""
    content: Mapping[str, Any] = read_json(FILE)
    return content


def published_model(source: str | None) -> PublishedModel | None:
    """The published model that a hub name or a folder names; None where it names none.

    Args:
        source: of an evaluated encoder: its last part counts, and of a folder of the hub's cache
            that of the repository.
    """
    parts = PurePath(source or "").parts
    cached = (part.removeprefix(CACHED) for part in parts if part.startswith(CACHED))
    for part in (*parts[-1:], *cached):
        match = _NAME.fullmatch(part)
        section = match and SECTIONS.get((match["kind"], match["how"] or ""))
        if match and section:
            return PublishedModel(part, match["base"], section, ROWS[match["base"]])
    return None


def printed_scores(number: str, model: PublishedModel) -> list[float]:
    """The scores that a table prints of a published model, in the order of its columns."""
    sections = read_paper_tables()["tables"][number]["sections"]
    (rows,) = (section["rows"] for section in sections if section["heading"] == model.section)
    (scores,) = (row["scores"] for row in rows if row["name"] == model.row)
    return [float(score) for score in scores]


def set_names(table: Mapping[str, Any], known: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The sets that each column of Table 9, 10 or 11 is of, from those that are known.

    A column `ar` of MIRACL is a set `ar`, `miracl-ar`, `miracl_ar` or `miracl/ar`; a column whose
    set has parts is of all of them. Columns without any are left out.
    """
    sets = {}
    for column, name in zip(table["columns"], table["sets"], strict=True):
        aliases = {name, *(f"{table['prefix']}{sign}{name}" for sign in "-_/")}
        names = tuple(one for one in known if one in aliases or one.rpartition("/")[0] in aliases)
        if names:
            sets[column] = names
    return sets


def full_rows(number: str) -> list[Row]:
    """Rows of Table 9, 10 or 11: every set, the average, the gain."""
    rows: list[Row] = []
    for section in read_paper_tables()["tables"][number]["sections"]:
        rows.append(_heading(number, section["heading"]))
        rows += [
            (
                Cell(row["name"]),
                *(Cell(f"{score:.1f}") for score in row["scores"]),
                Cell(f"{row['average']:.1f}", mark="*" * row.get("significant", False)),
                Cell(f"{row['gain']:+.1f}" if "gain" in row else NOTHING),
            )
            for row in section["rows"]
        ]
    return rows


def summary_rows(number: str, columns: Sequence[tuple[str, str]]) -> list[Row]:
    """Rows of Table 3 or 5 for some columns, each a benchmark's title and a metric.

    Columns that the paper does not have get a dash.
    """
    table = read_paper_tables()["tables"][number]
    indices = {(column["title"], column["metric"]): i for i, column in enumerate(table["columns"])}
    places = [indices.get(column) for column in columns]
    rows: list[Row] = []
    for section in table["sections"]:
        rows.append(_heading(number, section["heading"]))
        rows += [
            (Cell(row["name"]), *(Cell(NOTHING) if i is None else _summary(row, i) for i in places))
            for row in section["rows"]
        ]
        if gains := section.get("average_gains"):
            shown = (NOTHING if i is None else f"{gains[i]:+.1f}" for i in places)
            rows.append((Cell("Average gain"), *map(Cell, shown)))
    return rows


def _summary(row: Mapping[str, Any], place: int) -> Cell:
    score = f"{row['scores'][place]:.1f}"
    if "gains" not in row:
        return Cell(score)
    star = "*" if row.get("significant", [False] * (place + 1))[place] else ""
    return Cell(f"{score}{star} ({row['gains'][place]:+.1f})")


def _heading(number: str, text: str) -> Row:
    return (Cell(f"Published ({PAPER}, Table {number})" + (f": {text}" if text else "")),)
