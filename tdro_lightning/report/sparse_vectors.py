"""What the sparse vectors of an evaluation are, as tables, and their terms while runs trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.vector_faults import FAULTS
from tdro_lightning.report.figures import Figure, line_figure, thin_curves
from tdro_lightning.report.results import Result
from tdro_lightning.report.runs import Run
from tdro_lightning.report.tables import NOTHING, Column, Table, cells

SIDES = ("queries", "documents")
Vectors = Mapping[str, Mapping[str, Any]]  # of an evaluation, by set


def read_vectors(content: Any, place: Path) -> Mapping[str, Vectors]:
    """The content of a `sparse_vectors.json`, by encoder, checked by making its tables.

    Raises:
        DataError: it lacks a field or holds a wrong value.
    """
    try:
        for encoder, sets in content.items():
            vector_tables({encoder: sets})
            example_tables(encoder, sets)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{place}: not what an evaluation of this version writes of sparse vectors "
            f"({error!r}); evaluate again"
        ) from None
    return dict(content)


def vectors_of(results: Sequence[Result]) -> dict[str, Vectors]:
    """What is known of the sparse vectors of each result, by its name."""
    found = {
        result.name: {
            name: own.vectors
            for scores in result.by_seed.values()
            for name, own in scores.sets.items()
            if own.vectors is not None
        }
        for result in results
    }
    return {name: sets for name, sets in found.items() if sets}


def vector_tables(encoders: Mapping[str, Vectors]) -> tuple[Table, ...]:
    """A row for each encoder and set, and one for every kind of faulty vectors where there are."""
    sizes, faulty = [], []
    for encoder, sets in encoders.items():
        for name, own in sets.items():
            sizes.append(cells([encoder, name, *_sizes(own)]))
            faulty += [
                cells([encoder, name, side, terms, *_rows(own[side][kind], own[side]["texts"])])
                for side in SIDES
                for kind, terms in FAULTS.items()
                if own[side][kind]["count"]
            ]
    tables = [Table("Sparse vectors", SIZES_CAPTION, SIZE_COLUMNS, tuple(sizes))]
    if faulty:
        tables.append(Table("Faulty vectors", FAULTY_CAPTION, FAULTY_COLUMNS, tuple(faulty)))
    return tuple(tables)


def example_tables(encoder: str, sets: Vectors) -> list[Table]:
    """A table for each set: a few queries and the documents found first, with their top terms."""
    caption = (
        "The terms of the largest weights, each with its number and weight. Tokens are shown as "
        "text; numbers tell apart those that look alike. Every query is followed by the document "
        "that is ranked first for it."
    )
    tables = []
    for name, own in sets.items():
        most = max(len(one["top"]) for one in own["examples"])
        columns = (
            *(Column(title, numeric=False) for title in ("Text", "Id", "Begins")),
            Column("Terms"),
            *(Column(str(place), numeric=False) for place in range(1, most + 1)),
        )
        rows = tuple(cells(_example(one, most)) for one in own["examples"])
        tables.append(Table(f"Top terms of {encoder} on {name}", caption, columns, rows))
    return tables


def term_curves(runs: Sequence[Run]) -> Figure | None:
    """A line for each run and side: active terms of a text while it trained."""
    curves = {
        f"{run.name}, {side}": series
        for run in runs
        for side, series in run.series("sparsity/terms/").items()
    }
    if not curves:
        return None
    text = "Active terms of a text over the steps"
    svg = line_figure(thin_curves(curves), "terms", text, "sparse terms")
    return Figure(text, "Mean over the texts of a batch, of queries and of passages.", svg)


SIZE_COLUMNS = (
    *(Column(title, numeric=False) for title in ("Encoder", "Set")),
    *(Column("Terms of a query", note) for note in ("mean", "median", "most")),
    *(Column("Terms of a document", note) for note in ("mean", "median", "most")),
    Column("Documents of a term"),
    Column("FLOPS"),
    *(Column("Terms", note) for note in ("in none", "in all", "of all")),
    Column("Index", "MB"),
    Column("Search", "ms a query"),
)
SIZES_CAPTION = (
    "Terms of a text have weights above 0. Documents of a term: mean length of the lists that a "
    "search reads, without empty ones. FLOPS: products for a query and a document, estimated by "
    "the sum over terms of the shares of queries and documents that have it. In none and in all: "
    "of the documents. The search is on one core, reading included."
)
FAULTY_COLUMNS = (
    *(Column(title, numeric=False) for title in ("Encoder", "Set", "Of", "Vectors with")),
    Column("Texts"),
    Column("Share"),
    Column("Ids of the first", numeric=False),
)
FAULTY_CAPTION = (
    "A query without terms finds nothing, and a document without terms is never found. Nearly all "
    "are 99 % of the vocabulary: such a vector is not sparse."
)


def _sizes(own: Mapping[str, Any]) -> list[str]:
    lengths = [
        text
        for side in SIDES
        for text in (
            f"{own[side]['mean']:,.1f}",
            f"{own[side]['median']:,.0f}",
            f"{own[side]['max']:,}",
        )
    ]
    return [
        *lengths,
        f"{own['posting_length']:,.1f}",
        f"{own['flops']:,.2f}",
        *(f"{own[key]:,}" for key in ("dead_terms", "constant_terms", "vocabulary")),
        f"{own['index_bytes'] / 1e6:,.1f}",
        f"{own['milliseconds_a_query']:,.1f}",
    ]


def _rows(found: Mapping[str, Any], texts: int) -> list[str]:
    more = ", ..." if found["count"] > len(found["first"]) else ""
    return [
        f"{found['count']:,}",
        f"{100 * found['count'] / texts:.1f} %",
        ", ".join(found["first"]) + more,
    ]


def _example(one: Mapping[str, Any], most: int) -> list[str]:
    top = [f"{own['token'].strip()} ({own['term']}) {own['weight']:.2f}" for own in one["top"]]
    nothing = [NOTHING] * (most - len(top))
    return [one["kind"], one["id"], one["text"], f"{one['terms']:,}", *top, *nothing]
