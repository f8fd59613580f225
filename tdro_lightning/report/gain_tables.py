"""Tables of gains: over queries, on each set, and over seeds."""

from collections.abc import Sequence
from statistics import fmean

from tdro_lightning.report.gains import Comparison, Gain, few_seeds
from tdro_lightning.report.significance import FEW, PairedTest
from tdro_lightning.report.tables import NOTHING, Cell, Column, Table, cells, signed

MARKS = (
    "* is significantly above the baseline and † significantly below it: p < 0.05 in the paired, "
    "two-sided randomisation test over queries, adjusted by Holm; what is below the untrained "
    "model has no star"
)
QUERIES_ONLY = (
    "Tests over queries say whether these very models differ; whether training anew would show "
    "it again, only seeds can say."
)


def gain_tables(comparisons: Sequence[Comparison], title: str) -> tuple[Table, ...]:
    """The averages, the sets, and the seeds where there are several; none without comparisons.

    Args:
        comparisons: by one metric.
        title: what the metric is called.
    """
    if not comparisons:
        return ()
    seeds = [seeds_table(comparisons, title)] if any(c.over_seeds for c in comparisons) else []
    return (average_table(comparisons, title), sets_table(comparisons, title), *seeds)


def average_table(comparisons: Sequence[Comparison], title: str) -> Table:
    """A row a trial: the gain of the average over sets, with both tests over queries."""
    titles = (
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
    )
    return Table(
        f"Gain in {title}, average over sets",
        f"{title} × 100 averaged over the sets that both have, each counted once{_grouped()}, and "
        f"over the seeds that both have. {MARKS} over the retrievers of this table, as are both "
        "columns of p-values; intervals are not adjusted. A dash where the scores of the queries "
        f"are not at hand. {QUERIES_ONLY} {few_seeds(comparisons)}".strip(),
        titles,
        tuple(
            (
                *cells([one.trial.name, one.baseline.name, str(len(one.sets))]),
                Cell(f"{one.average.queries:,}"),
                *cells([f"{one.average.baseline:.1f}", f"{one.average.score:.1f}"]),
                gain_cell(one.average),
                *cells(
                    [
                        interval(one.average.test),
                        p_value(one.average.randomisation),
                        p_value(one.average.t_test),
                    ]
                ),
            )
            for one in comparisons
        ),
    )


def sets_table(comparisons: Sequence[Comparison], title: str) -> Table:
    """A row a trial, a column a set: gain and interval."""
    names = list(dict.fromkeys(name for one in comparisons for name in one.sets))
    return Table(
        f"Gain in {title} on each set",
        f"Difference in {title} × 100 with its 95 % interval (paired t, not adjusted). {MARKS} "
        f"over the sets of the row.{_grouped('.')} {few_seeds(comparisons)}".strip(),
        (
            Column("Retriever", numeric=False),
            *(Column(name, _queries(comparisons, name)) for name in names),
        ),
        tuple(
            (Cell(one.trial.name), *(_set_cell(one.sets.get(name)) for name in names))
            for one in comparisons
        ),
    )


def seeds_table(comparisons: Sequence[Comparison], title: str) -> Table:
    """A row a trial with several seeds: how the gain of the average scatters over them."""
    titles = ("Seeds", "Gain", "Lowest", "Highest", "95 % interval", "p", "Seeds above")
    rows = []
    shown = [one for one in comparisons if one.over_seeds]
    for one in shown:
        test, differences = one.over_seeds, list(one.by_seed.values())
        few = f" ({len(differences)} seeds)" if len(differences) < FEW else ""
        rows.append(
            cells(
                [
                    one.trial.name,
                    str(len(differences)),
                    signed(fmean(differences)),
                    signed(min(differences)),
                    signed(max(differences)),
                    interval(test),
                    p_value(one.seeds_t_test) + few,
                    f"{sum(value > 0 for value in differences)} of {len(differences)}",
                ]
            )
        )
    return Table(
        f"Gain in {title} over seeds",
        f"Difference of the average {title} × 100 from the baseline of the same seed. The interval "
        "and p are those of the paired, two-sided t-test over seeds, p adjusted by Holm over the "
        "retrievers of this table. With few seeds it finds large and steady gains only, and three "
        f"differences that happen to be alike make p small. {few_seeds(shown)}".strip(),
        (Column("Retriever", numeric=False), *(Column(name) for name in titles)),
        tuple(rows),
    )


def gain_cell(gain: Gain) -> Cell:
    """The difference with its mark."""
    return Cell(signed(gain.difference), mark=gain.mark)


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
    return Cell(f"{signed(gain.difference)}{gain.mark}{between}")


def _queries(comparisons: Sequence[Comparison], name: str) -> str:
    counts = {one.sets[name].queries for one in comparisons if name in one.sets}
    lowest, highest = min(counts), max(counts)
    return f"{lowest:,} queries" if lowest == highest else f"{lowest:,} to {highest:,} queries"


def _grouped(end: str = "") -> str:
    text = "sets named `group/part` are averaged first and count as one"
    return f" {text[0].upper()}{text[1:]}." if end else f" ({text})"
