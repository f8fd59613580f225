"""The authors' published models that runs have evaluated, beside what the paper prints of them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tdro_lightning.report.identity import merge_scores
from tdro_lightning.report.paper_tables import (
    PAPER,
    PublishedModel,
    printed_scores,
    published_model,
    read_paper_tables,
    set_names,
)
from tdro_lightning.report.results import TITLES
from tdro_lightning.report.runs import RetrieverScores, Run
from tdro_lightning.report.tables import NOTHING, Cell, Column, Table, format_difference

SUMMARY, FULL = "3", ("9", "10", "11")
PARTS = {"CQADup": 12}  # sets whose mean is one column; columns that are not here are one set


@dataclass(frozen=True)
class _Measured:
    """A published model as some runs have measured it."""

    title: str
    model: PublishedModel
    scores: RetrieverScores

    def mean(self, names: Sequence[str], metric: str) -> float | None:
        """Mean score times 100 over some sets; None where one was not measured."""
        found = [self.scores.sets[name].scores for name in names if name in self.scores.sets]
        values = [100 * one[metric] for one in found if metric in one]
        return fmean(values) if len(values) == len(names) else None


def published_tables(runs: Sequence[Run]) -> tuple[Table, ...]:
    """Tables 3 and 9 to 11 of the published models that runs have evaluated: printed, and here.

    Sets that none of them was evaluated on are left out, and tables without any.

    Args:
        runs: all of a report.
    """
    measured = _measured_models(runs)
    tables = read_paper_tables()["tables"]
    found = [_table(SUMMARY, _summary_columns(tables, measured), measured)]
    for number in FULL:
        metric = tables[number]["metric"]
        columns = {
            i: (title, metric, [names])
            for i, (title, names) in enumerate(_sets(tables[number], measured))
            if names
        }
        found.append(_table(number, columns, measured))
    return tuple(table for table in found if table)


def _measured_models(runs: Sequence[Run]) -> list[_Measured]:
    """Published models, the sets of several runs together; with a set twice, each run apart."""
    entries: dict[PublishedModel, list[tuple[Run, RetrieverScores]]] = defaultdict(list)
    for run in runs:
        for scores in run.retrievers:
            if model := published_model(scores.source):
                entries[model].append((run, scores))
    measured = []
    for model, own in entries.items():
        merged = merge_scores([scores for _, scores in own])
        if len(merged.sets) == sum(len(scores.sets) for _, scores in own):
            measured.append(_Measured(model.name, model, merged))
        else:
            measured += [_Measured(f"{model.name} ({run.name})", model, one) for run, one in own]
    return measured


def _sets(
    table: Mapping[str, Any], measured: Sequence[_Measured]
) -> list[tuple[str, tuple[str, ...]]]:
    """The columns of Table 9, 10 or 11, each with its sets; with none where parts are missing."""
    names = list(dict.fromkeys(name for one in measured for name in one.scores.sets))
    known = set_names(table, names)
    return [
        (title, own if len(own) >= PARTS.get(title, 1) else ())
        for title in table["columns"]
        for own in [known.get(title, ())]
    ]


Columns = dict[int, tuple[str, str, list[tuple[str, ...]]]]  # place: title, metric, sets of each


def _summary_columns(tables: Mapping[str, Any], measured: Sequence[_Measured]) -> Columns:
    """The columns of Table 3 whose sets are all there."""
    columns: Columns = {}
    for i, column in enumerate(tables[SUMMARY]["columns"]):
        sets = [names for _, names in _sets(tables[column["table"]], measured)]
        if all(sets):
            columns[i] = (column["title"], column["metric"], sets)
    return columns


def _table(number: str, columns: Columns, measured: Sequence[_Measured]) -> Table | None:
    """A table with three rows a model; None where none has a column."""
    means = {
        i: [_mean_of_means(one, sets, metric) for one in measured]
        for i, (_, metric, sets) in columns.items()
    }
    shown = {i: columns[i] for i, values in means.items() if any(v is not None for v in values)}
    if not shown:
        return None
    rows: list[tuple[Cell, ...]] = []
    for place, one in enumerate(measured):
        here = [means[i][place] for i in shown]
        if any(value is not None for value in here):
            printed = printed_scores(number, one.model)
            rows += _model_rows(one.title, [printed[i] for i in shown], here)
    metrics = {metric for _, metric, _ in shown.values()}
    what = f"{TITLES[metrics.pop()]} × 100" if len(metrics) == 1 else "Scores × 100"
    return Table(
        f"Published models beside the paper's Table {number}",
        f"{what}. `Printed` is the paper's figure ({PAPER}), `here` what these runs measured with "
        "the published model. Models and sets are recognised by their names; whether the sets are "
        "the paper's, with its prompts, is not checked.",
        (
            Column("Model", numeric=False),
            *(
                Column(title, TITLES[metric] if number == SUMMARY else "")
                for title, metric, _ in shown.values()
            ),
        ),
        tuple(rows),
    )


def _model_rows(
    title: str, printed: Sequence[float], here: Sequence[float | None]
) -> list[tuple[Cell, ...]]:
    """A heading, what is printed, what was measured, and the difference."""
    pairs = list(zip(printed, here, strict=True))
    return [
        (Cell(title),),
        (Cell("Printed"), *(Cell(f"{value:.1f}") for value in printed)),
        (Cell("Here"), *(Cell(NOTHING if one is None else f"{one:.1f}") for one in here)),
        (
            Cell("Difference"),
            *(
                Cell(NOTHING if one is None else format_difference(one - value))
                for value, one in pairs
            ),
        ),
    ]


def _mean_of_means(one: _Measured, sets: Sequence[Sequence[str]], metric: str) -> float | None:
    means = [one.mean(names, metric) for names in sets]
    known = [mean for mean in means if mean is not None]
    return fmean(known) if known and len(known) == len(means) else None
