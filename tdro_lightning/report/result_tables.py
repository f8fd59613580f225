"""Tables of results: scores of every metric, and gains over the baselines with their tests."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from statistics import fmean

from tdro_lightning.report.gains import BaselineComparison, Gain, few_seeds_warning, group_sets
from tdro_lightning.report.results import BASELINES, MAIN_METRIC, TITLES, Result
from tdro_lightning.report.significance import FEW, PairedTest
from tdro_lightning.report.tables import NOTHING, Cell, Column, Table, cells, format_difference

MARKS = (
    "* is significantly above the baseline and † significantly below it: p < 0.05 in the paired, "
    "two-sided randomisation test over queries, adjusted by Holm; what is below the untrained "
    "model has no star"
)
GROUPED = "sets named `group/part` are averaged first and count as one"
QUERIES_ONLY = (
    "Tests over queries say whether these very models differ; whether training anew would show "
    "it again, only seeds can say."
)


def score_tables(results: Sequence[Result]) -> tuple[Table, ...]:
    """A table for each metric that was measured, the main one first."""
    return tuple(score_table(results, metric) for metric in TITLES if _sets(results, metric))


def score_table(results: Sequence[Result], metric: str) -> Table:
    """A row a retriever: the average over the sets that all share, then a column a set.

    Scores are times 100. The main metric has one more column for each of the usual baselines that
    is there: the difference of the averages from it, or from the mean of all its rows. Averages
    come first, so that they are in sight where a table is wider than its page.
    """
    sets = _sets(results, metric)
    shared = [name for name in sets if all(result.has(name, metric) for result in results)]
    averages = [result.average(shared, metric) for result in results]
    columns = {Column("Average", count_sets(group_sets(shared))): _score_cells(averages, results)}
    for baseline in BASELINES if metric == MAIN_METRIC else ():
        if rows := sum(result.label.casefold() == baseline for result in results):
            column = Column(f"vs {baseline}", f"mean of {rows}" if rows > 1 else "")
            columns[column] = _difference_cells(averages, results, baseline)
    for name in sets:
        scores = [result.score(name, metric) for result in results]
        columns[Column(name, queries_of(results, [name], "d"))] = _score_cells(scores, results)
    groups = (
        ", and the sets of a group (`group/part`) as one" if any("/" in n for n in sets) else ""
    )
    if len(sets) > len(shared):
        groups += f", over the {len(shared)} of {len(sets)} sets that all retrievers have"
    return Table(
        TITLES[metric],
        f"{TITLES[metric]} × 100, higher is better; the best trained value of a column is "
        f"bold. The average counts every set once{groups}.",
        (Column("Retriever", numeric=False), *columns),
        tuple(zip((Cell(result.name) for result in results), *columns.values(), strict=True)),
    )


def seed_counts(results: Sequence[Result]) -> dict[str, int]:
    """Number of different run seeds of each trained label."""
    seeds = dict.fromkeys(
        (one.label, seed) for one in results if one.trained for seed in one.by_seed
    )
    return Counter(label for label, _ in seeds)


def seed_note(results: Sequence[Result]) -> str:
    """How many seeds each trained retriever has, and what follows from that."""
    counts = ", ".join(f"{label} ({n})" for label, n in seed_counts(results).items())
    return (
        f"Seeds per trained retriever: {counts or 'none'}. A difference seen with one seed is "
        "within noise and no evidence of a gain unless several seeds agree."
    )


def query_count(counts: Collection[int], style: str = ",") -> str:
    """`7 queries`, or the range where retrievers have different numbers; empty without any."""
    if not counts:
        return ""
    lowest, highest = f"{min(counts):{style}}", f"{max(counts):{style}}"
    return f"{lowest} queries" if lowest == highest else f"{lowest} to {highest} queries"


def queries_of(results: Sequence[Result], names: Sequence[str], style: str = ",") -> str:
    """The number of queries of some sets together, as in `query_count`."""
    seeds = [one.sets for result in results for one in result.by_seed.values()]
    counts = [sum(own[n].queries for n in names) for own in seeds if own.keys() >= set(names)]
    return query_count(counts, style)


def count_sets(names: Collection[str]) -> str:
    """`1 set` or `7 sets`."""
    return f"{len(names)} set{'' if len(names) == 1 else 's'}"


def _sets(results: Sequence[Result], metric: str) -> list[str]:
    names = dict.fromkeys(name for result in results for name in result.sets)
    return [name for name in names if any(result.has(name, metric) for result in results)]


def _score_cells(values: Sequence[float | None], results: Sequence[Result]) -> list[Cell]:
    trained = [v for v, r in zip(values, results, strict=True) if v is not None and r.trained]
    best = max((round(value, 1) for value in trained), default=None)
    return [
        Cell(NOTHING) if v is None else Cell(f"{v:.1f}", r.trained and round(v, 1) == best)
        for v, r in zip(values, results, strict=True)
    ]


def _difference_cells(
    averages: Sequence[float | None], results: Sequence[Result], baseline: str
) -> list[Cell]:
    pairs = list(zip(averages, results, strict=True))
    known = [a for a, r in pairs if r.label.casefold() == baseline and a is not None]
    return [
        Cell(NOTHING)
        if average is None or not known or (len(known) == 1 and result.label.casefold() == baseline)
        else Cell(format_difference(average - fmean(known)))
        for average, result in pairs
    ]


def gain_tables(comparisons: Sequence[BaselineComparison], title: str) -> tuple[Table, ...]:
    """The averages, the sets, and the seeds where there are several; none without comparisons.

    Args:
        comparisons: by one metric.
        title: what the metric is called.
    """
    if not comparisons:
        return ()
    seeds = [seeds_table(comparisons, title)] if any(c.over_seeds for c in comparisons) else []
    return (average_table(comparisons, title), sets_table(comparisons, title), *seeds)


def average_table(comparisons: Sequence[BaselineComparison], title: str) -> Table:
    """A row a result and baseline: the gain of the average, with both tests over queries."""
    return Table(
        f"Gain in {title}, average over sets",
        f"{title} × 100 averaged over the sets that both have, each counted once ({GROUPED}), and "
        f"over the seeds that both have. {MARKS} over the retrievers that are compared with one "
        "baseline, as are both columns of p-values; intervals are not adjusted. A dash where the "
        "scores of the queries are not at hand. "
        f"{QUERIES_ONLY} {few_seeds_warning(comparisons)}".strip(),
        (
            Column("Retriever", numeric=False),
            Column("Against", numeric=False),
            Column("Sets"),
            Column("Queries"),
            Column("Baseline"),
            Column("Score"),
            Column("Gain"),
            Column("95 % interval"),
            Column("p", "randomisation"),
            Column("p", "t-test"),
        ),
        tuple(
            (
                Cell(one.result.name),
                Cell(one.baseline.name),
                Cell(str(len(one.sets))),
                Cell(f"{one.average.queries:,}"),
                Cell(f"{one.average.baseline:.1f}"),
                Cell(f"{one.average.score:.1f}"),
                Cell(format_difference(one.average.difference), mark=one.average.mark),
                Cell(interval(one.average.test)),
                Cell(p_value(one.average.randomisation)),
                Cell(p_value(one.average.t_test)),
            )
            for one in comparisons
        ),
    )


def sets_table(comparisons: Sequence[BaselineComparison], title: str) -> Table:
    """A row a result and baseline, a column a set: gain and interval."""
    counts: dict[str, list[int]] = defaultdict(list)
    for one in comparisons:
        for name, gain in one.sets.items():
            counts[name].append(gain.queries)
    return Table(
        f"Gain in {title} on each set",
        f"Difference in {title} × 100 with its 95 % interval (paired t, not adjusted). {MARKS} "
        f"over the sets of the row. {GROUPED.capitalize()}. "
        f"{few_seeds_warning(comparisons)}".strip(),
        (
            Column("Retriever", numeric=False),
            Column("Against", numeric=False),
            *(Column(name, query_count(queries)) for name, queries in counts.items()),
        ),
        tuple(
            (
                *cells([one.result.name, one.baseline.name]),
                *(_set_cell(one.sets.get(name)) for name in counts),
            )
            for one in comparisons
        ),
    )


def seeds_table(comparisons: Sequence[BaselineComparison], title: str) -> Table:
    """A row a result with several seeds and a baseline: how the gain scatters over the seeds."""
    titles = ("Seeds", "Gain", "Lowest", "Highest", "95 % interval", "p", "Seeds above")
    shown = [one for one in comparisons if one.over_seeds]
    return Table(
        f"Gain in {title} over seeds",
        f"Difference of the average {title} × 100 from the baseline of the same seed. The interval "
        "and p are those of the paired, two-sided t-test over seeds, p adjusted by Holm over the "
        "retrievers that are compared with one baseline. With few seeds it finds large and steady "
        "gains only, and three differences that happen to be alike make p small. "
        f"{few_seeds_warning(shown)}".strip(),
        (
            Column("Retriever", numeric=False),
            Column("Against", numeric=False),
            *map(Column, titles),
        ),
        tuple(map(_seeds_row, shown)),
    )


def _seeds_row(one: BaselineComparison) -> tuple[Cell, ...]:
    differences = list(one.by_seed.values())
    few = f" ({len(differences)} seeds)" if len(differences) < FEW else ""
    return cells(
        [
            one.result.name,
            one.baseline.name,
            str(len(differences)),
            format_difference(fmean(differences)),
            format_difference(min(differences)),
            format_difference(max(differences)),
            interval(one.over_seeds),
            p_value(one.seeds_t_test) + few,
            f"{sum(value > 0 for value in differences)} of {len(differences)}",
        ]
    )


def interval(test: PairedTest | None) -> str:
    """The interval of a difference, as text."""
    if test is None or test.low is None or test.high is None:
        return NOTHING
    ends = (round(end, 1) or 0.0 for end in (test.low, test.high))  # no -0.0
    return " to ".join(f"{end:.1f}" for end in ends)


def p_value(value: float | None) -> str:
    """A p-value, as text."""
    if value is None:
        return NOTHING
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"


def _set_cell(gain: Gain | None) -> Cell:
    if gain is None:
        return Cell(NOTHING)
    shown = interval(gain.test)
    between = "" if shown == NOTHING else f" ({shown})"
    return Cell(f"{format_difference(gain.difference)}{gain.mark}{between}")
