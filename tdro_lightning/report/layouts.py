"""The paper's tables from runs: all sets (Tables 9 to 11), all models (3), one model (5)."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tdro_lightning.report.gains import (
    BaselineComparison,
    compare_with_baselines,
    few_seeds_warning,
    group_sets,
)
from tdro_lightning.report.paper_tables import full_rows, read_paper_tables, set_names, summary_rows
from tdro_lightning.report.result_tables import MARKS, count_sets, queries_of
from tdro_lightning.report.results import TITLES, Result
from tdro_lightning.report.tables import NOTHING, Cell, Column, Table, format_difference

FULL = ("9", "10", "11")
HERE = "Measured here"
KINDS = ("without training", "baseline", "dataset selection", "reweighting and others")
SELECTIONS = ("bottom", "top", "random")  # how labels of selections begin
Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Benchmark:
    """Sets that are averaged, by the title of their column, and the metrics that sum them up.

    Attributes:
        table: the number of the paper's table, None for other sets.
    """

    title: str
    columns: Mapping[str, Sequence[str]]
    metrics: tuple[str, ...]
    table: str | None

    @property
    def sets(self) -> list[str]:
        """All sets."""
        return [name for parts in self.columns.values() for name in parts]


Compared = Mapping[tuple[str, str], tuple[Benchmark, Mapping[str, BaselineComparison]]]


def layout_tables(
    results: Sequence[Result], pairs: Sequence[tuple[Result, Result]]
) -> tuple[Table, ...]:
    """A table of all sets for every benchmark, then the summaries over benchmarks.

    A benchmark of the paper is shown with the published rows where a retriever has all its sets;
    all other sets are one benchmark without published rows.

    Args:
        results: all results.
        pairs: results with their baselines.
    """
    benchmarks = _benchmarks(results)
    found: Compared = {
        (benchmark.title, metric): (
            benchmark,
            {
                gain.result.name: gain
                for gain in compare_with_baselines(pairs, metric, benchmark.columns, results)
            },
        )
        for benchmark in benchmarks
        for metric in benchmark.metrics
    }
    full = [_full_table(one, one.metrics[0], results, found) for one in benchmarks]
    return (*full, *_summaries(results, found, {other.name for _, other in pairs}))


def _benchmarks(results: Sequence[Result]) -> list[Benchmark]:
    names = list(dict.fromkeys(name for result in results for name in result.sets))
    summed = read_paper_tables()["tables"]["3"]["columns"]
    benchmarks = []
    for number in FULL:
        table = read_paper_tables()["tables"][number]
        columns, title = set_names(table, names), table["benchmark"]
        metrics = [table["metric"], *(c["metric"] for c in summed if c["title"] == title)]
        benchmark = Benchmark(title, columns, tuple(dict.fromkeys(metrics)), number)
        needed = set(benchmark.sets)
        covered = any(needed <= set(result.common_sets(metrics[0])) for result in results)
        if len(columns) == len(table["columns"]) and covered:
            benchmarks.append(benchmark)
    used = {name for benchmark in benchmarks for name in benchmark.sets}
    if others := group_sets([name for name in names if name not in used]):
        measured = [m for m in TITLES if any(result.common_sets(m) for result in results)]
        benchmarks.append(Benchmark(count_sets(others), others, tuple(measured[:2]), None))
    return benchmarks


def _full_table(
    benchmark: Benchmark, metric: str, results: Sequence[Result], found: Compared
) -> Table:
    """Every set, their mean and the gain, in the layout of Tables 9 to 11."""
    comparisons = found[benchmark.title, metric][1]
    shown = [t for t in results if any(t.has(name, metric) for name in benchmark.sets)]
    rows = full_rows(benchmark.table) if benchmark.table else []
    for heading, named in _sections(shown):
        rows.append((Cell(heading),))
        rows += [
            _full_row(name, result, benchmark, metric, comparisons.get(result.name))
            for name, result in named
        ]
    kind = f"in the layout of the paper's Table {benchmark.table}" if benchmark.table else (
        "in the layout of the paper's Tables 9 to 11"
    )  # fmt: skip
    return Table(
        f"{TITLES[metric]} on {benchmark.title}, {kind}",
        f"{TITLES[metric]} × 100. {_note(benchmark.table is not None)} On a set, p is adjusted "
        "over the sets of the row, on the average over the retrievers of this table. "
        f"{few_seeds_warning(list(comparisons.values()))}".strip(),
        (
            Column("Model", numeric=False),
            *(
                Column(title, queries_of(shown, names))
                for title, names in benchmark.columns.items()
            ),
            Column("Avg", f"{len(benchmark.columns)} sets"),
            Column("Gain"),
        ),
        tuple(rows),
    )


def _full_row(
    name: str, result: Result, benchmark: Benchmark, metric: str, gain: BaselineComparison | None
) -> Row:
    means = {c: _mean(result, names, metric) for c, names in benchmark.columns.items()}
    return (
        Cell(name),
        *(
            Cell(NOTHING)
            if mean is None
            else Cell(f"{mean:.1f}", mark=gain.sets[column].mark if gain else "")
            for column, mean in means.items()
        ),
        *_average_cells(result, benchmark, metric, gain),
    )


def _mean(result: Result, names: Sequence[str], metric: str) -> float | None:
    """Mean score over the sets of a column; None where one was not measured."""
    scores = [score for name in names if (score := result.score(name, metric)) is not None]
    return fmean(scores) if len(scores) == len(names) else None


def _average_cells(
    result: Result, benchmark: Benchmark, metric: str, gain: BaselineComparison | None
) -> tuple[Cell, Cell]:
    columns = benchmark.columns.values()
    means = [mean for names in columns if (mean := _mean(result, names, metric)) is not None]
    if len(means) < len(columns):
        return Cell(NOTHING), Cell(NOTHING)
    average = Cell(f"{fmean(means):.1f}", mark=gain.average.mark if gain else "")
    return average, Cell(format_difference(gain.average.difference) if gain else NOTHING)


def _summaries(
    results: Sequence[Result], found: Compared, baselines: Collection[str]
) -> list[Table]:
    """All models in the layout of Table 3; where there is one model, that of Table 5."""
    several = len({result.model for result in results if result.trained}) > 1
    number = "3" if several else "5"
    printed = [(c["title"], c["metric"]) for c in read_paper_tables()["tables"][number]["columns"]]
    own = [key for key, (one, _) in found.items() if one.table is None]
    columns = [key for key in printed if key in found] + (own if several else own[:1])
    if not columns:
        return []
    rows = summary_rows(number, columns) if any(key in printed for key in columns) else []
    for heading, named in _sections(results) if several else _kinds(results, baselines):
        body = [(name, [_summary(result, key, found) for key in columns]) for name, result in named]
        rows.append((Cell(heading),))
        rows += [(Cell(name), *(cell for cell, _ in cells)) for name, cells in body]
        gains = [[cells[i][1] for _, cells in body] for i in range(len(columns))]
        if several and any(value is not None for column in gains for value in column):
            rows.append((Cell("Average gain"), *map(_mean_gain, gains)))
    what = "all models" if several else "one model"
    few = {one.result.name: one for key in columns for one in found[key][1].values()}
    return [
        Table(
            f"Averages of {what}, in the layout of the paper's Table {number}",
            f"Mean over the sets of each benchmark × 100, and in brackets the gain. "
            f"{_note(any(key in printed for key in columns))} p is adjusted over the retrievers "
            f"of a column. {few_seeds_warning(list(few.values()))}".strip(),
            (
                Column("Model" if several else "Training data", numeric=False),
                *(Column(title, TITLES[metric]) for title, metric in columns),
            ),
            tuple(rows),
        )
    ]


def _summary(result: Result, key: tuple[str, str], found: Compared) -> tuple[Cell, float | None]:
    benchmark, comparisons = found[key]
    gain = comparisons.get(result.name)
    average, difference = _average_cells(result, benchmark, key[1], gain)
    if gain is None:
        return average, None
    return Cell(f"{average.text}{average.mark} ({difference.text})"), gain.average.difference


def _mean_gain(values: Sequence[float | None]) -> Cell:
    known = [value for value in values if value is not None]
    return Cell(format_difference(fmean(known)) if known else NOTHING)


def _sections(results: Sequence[Result]) -> list[tuple[str, list[tuple[str, Result]]]]:
    """Results under headings: with several models a heading a label, and the models below it."""
    trained = [result for result in results if result.trained]
    bare = [(result.name, result) for result in results if not result.trained]
    sections = [(f"{HERE}: without training", bare)] if bare else []
    if len({result.model for result in trained}) < 2:
        return [*sections, (HERE, [(t.name, t) for t in trained])] if trained else sections
    for label in dict.fromkeys(result.label for result in trained):
        own = [result for result in trained if result.label == label]
        count = Counter(result.model for result in own)
        labels = [(t.model if t.model and count[t.model] == 1 else t.name, t) for t in own]
        sections.append((f"{HERE}: {label}", labels))
    return sections


def _kinds(
    results: Sequence[Result], baselines: Collection[str]
) -> list[tuple[str, list[tuple[str, Result]]]]:
    """One model's results under the headings of Table 5."""
    sections = [
        (f"{HERE}: {kind}", [(one.name, one) for one in results if _kind(one, baselines) == kind])
        for kind in KINDS
    ]
    return [(heading, named) for heading, named in sections if named]


def _kind(result: Result, baselines: Collection[str]) -> str:
    untrained, reference, selection, other = KINDS
    if not result.trained:
        return untrained
    if result.name in baselines:
        return reference
    return selection if result.label.startswith(SELECTIONS) else other


def _note(with_published: bool) -> str:
    theirs = (
        "Rows headed `Published` are as printed in the paper, whose stars come without a "
        "description of the test. "
    )
    return (
        f"{theirs if with_published else ''}Retrievers measured here are means over their seeds; "
        f"a set with parts is their mean. {MARKS}."
    )
