"""Evaluated retrievers in the order of the report, and the tables of their scores."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tdro_lightning.evaluation.averages import mean_over_sets
from tdro_lightning.report.runs import Retriever, Run
from tdro_lightning.report.tables import NOTHING, Cell, Column, Table, signed

BASELINE = "uniform"
UNTRAINED = ("bm25", "untrained")
MAIN_METRIC = "ndcg@10"
FURTHER_METRICS = ("recall@100", "recall@1000", "mrr@10", "accuracy@10", "accuracy@100")
TITLES = {
    "ndcg@10": "nDCG@10",
    "recall@100": "Recall@100",
    "recall@1000": "Recall@1000",
    "mrr@10": "MRR@10",
    "accuracy@10": "Accuracy@10",
    "accuracy@100": "Accuracy@100",
}


@dataclass(frozen=True)
class Result:
    """A retriever's scores under the name that the report shows."""

    name: str
    label: str
    seed: int | None
    retriever: Retriever

    @property
    def rank(self) -> int:
        """0 for BM25, 1 for the untrained encoder, 2 for the baseline, 3 for all others."""
        order = (*UNTRAINED, BASELINE)
        label = self.label.casefold()
        return order.index(label) if label in order else len(order)

    @property
    def trained(self) -> bool:
        """Whether training made this retriever."""
        return self.rank >= len(UNTRAINED)

    def score(self, name: str, metric: str) -> float | None:
        """The metric times 100 on one evaluation set, None where it was not measured."""
        value = self.retriever.sets.get(name, {}).get(metric)
        return None if value is None else 100 * value


def ordered_results(runs: Sequence[Run]) -> tuple[Result, ...]:
    """All evaluated retrievers: those without training, the baseline, the others by run.

    The same scores of the same untrained retriever in several runs are kept once. Where several
    runs have a label in common, the step's or the run's name is appended.
    """
    found: list[tuple[Result, Run]] = []
    for run in runs:
        for retriever in run.retrievers:
            result = Result(retriever.label, retriever.label, run.seed, retriever)
            known = any(retriever == other.retriever for other, _ in found)
            if result.trained or not known:
                found.append((result, run))
    names = told_apart(
        [result.label for result, _ in found],
        [[run.step for _, run in found], [run.name for _, run in found]],
    )
    named = [
        dataclasses.replace(result, name=name)
        for (result, _), name in zip(found, names, strict=True)
    ]
    return tuple(sorted(named, key=lambda result: result.rank))


def told_apart(labels: Sequence[str], places: Sequence[Sequence[str | None]]) -> list[str]:
    """The labels; behind those that several share, the first place that tells all of them apart.

    Args:
        labels: one for each retriever.
        places: lists as long as the labels, the preferred one first.
    """
    named = list(labels)
    for label in set(labels):
        own = [i for i, one in enumerate(labels) if one == label]
        for place in places if len(own) > 1 else ():
            for i in own:
                named[i] = f"{label} ({place[i]})"
            if len({named[i] for i in own}) == len(own):
                break
    return named


def result_tables(results: Sequence[Result]) -> tuple[Table, ...]:
    """The main table, then other metrics."""
    if not results:
        return ()
    measured = {
        metric
        for result in results
        for scores in result.retriever.sets.values()
        for metric in scores
    }
    further = [score_table(results, metric) for metric in FURTHER_METRICS if metric in measured]
    if MAIN_METRIC not in measured:  # MKQA counts answers only
        return tuple(further)
    return (score_table(results, MAIN_METRIC), *further)


def score_table(results: Sequence[Result], metric: str) -> Table:
    """A row a retriever: the average over the sets that all share, then a column a set.

    Scores are times 100. The main metric has one more column: the difference of the averages from
    the baseline, or from the mean of all baseline rows. Averages stand first, so that they are in
    sight where a table is wider than its page.
    """
    sets = _sets(results, metric)
    shared = _shared(results, metric)
    averages = [_average(result, shared, metric) for result in results]
    count = len({name.partition("/")[0] for name in shared})
    titles = [Column("Average", f"{count} set{'' if count == 1 else 's'}")]
    body = [_score_cells(averages, results)]
    if metric == MAIN_METRIC and any(result.label.casefold() == BASELINE for result in results):
        titles.append(Column(f"vs {BASELINE}"))
        body.append(_difference_cells(averages, results))
    for name in sets:
        titles.append(Column(name, _queries(results, name)))
        body.append(_score_cells([result.score(name, metric) for result in results], results))
    return Table(
        TITLES[metric],
        f"{TITLES[metric]} × 100, higher is better; the best trained value of a column is "
        f"bold. The average counts every set once{_average_note(sets, shared)}.",
        (Column("Retriever", numeric=False), *titles),
        tuple(
            (Cell(result.name), *(column[i] for column in body)) for i, result in enumerate(results)
        ),
    )


def seed_counts(results: Sequence[Result]) -> dict[str, int]:
    """Number of different run seeds of each trained label."""
    seeds: dict[str, set[int | None]] = {}
    for result in results:
        if result.trained:
            seeds.setdefault(result.label, set()).add(result.seed)
    return {label: len(found) for label, found in seeds.items()}


def seed_note(results: Sequence[Result]) -> str:
    """How many seeds stand behind each trained retriever, and what follows from that."""
    counts = ", ".join(f"{label} ({n})" for label, n in seed_counts(results).items())
    return (
        f"Seeds per trained retriever: {counts or 'none'}. A difference seen with one seed is "
        "within noise and no evidence of a gain unless several seeds agree."
    )


def _sets(results: Sequence[Result], metric: str) -> list[str]:
    names = dict.fromkeys(name for result in results for name in result.retriever.sets)
    return [n for n in names if any(result.score(n, metric) is not None for result in results)]


def _shared(results: Sequence[Result], metric: str) -> list[str]:
    return [
        name
        for name in _sets(results, metric)
        if all(result.score(name, metric) is not None for result in results)
    ]


def _average(result: Result, sets: Sequence[str], metric: str) -> float | None:
    scores = {name: result.score(name, metric) for name in sets}
    known = {name: score for name, score in scores.items() if score is not None}
    return mean_over_sets(known) if known else None


def _average_note(sets: Sequence[str], shared: Sequence[str]) -> str:
    grouped = any("/" in name for name in sets)
    parts = ", and the sets of a group (`group/part`) as one" if grouped else ""
    if len(sets) == len(shared):
        return parts
    return f"{parts}, over the {len(shared)} of {len(sets)} sets that all retrievers have"


def _score_cells(values: Sequence[float | None], results: Sequence[Result]) -> list[Cell]:
    shown = [None if value is None else round(value, 1) for value in values]
    trained = [
        value
        for value, result in zip(shown, results, strict=True)
        if value is not None and result.trained
    ]
    best = max(trained, default=None)
    return [
        Cell(NOTHING) if value is None else Cell(f"{value:.1f}", result.trained and value == best)
        for value, result in zip(shown, results, strict=True)
    ]


def _difference_cells(averages: Sequence[float | None], results: Sequence[Result]) -> list[Cell]:
    pairs = list(zip(averages, results, strict=True))
    baseline = [a for a, r in pairs if r.label.casefold() == BASELINE and a is not None]
    if not baseline:
        return [Cell(NOTHING) for _ in results]
    mean = fmean(baseline)
    return [
        Cell(NOTHING)
        if average is None or (len(baseline) == 1 and result.label.casefold() == BASELINE)
        else Cell(signed(average - mean))
        for average, result in pairs
    ]


def _queries(results: Sequence[Result], name: str) -> str:
    counts = {r.retriever.queries[name] for r in results if name in r.retriever.queries}
    if len(counts) > 1:
        return f"{min(counts)} to {max(counts)} queries"
    return f"{min(counts)} queries"
