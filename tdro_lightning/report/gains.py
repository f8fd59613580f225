"""What a result gains over its baseline, set by set and on average, with tests."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.errors import DataError
from tdro_lightning.files import read_json
from tdro_lightning.report.results import Result, Seed, baseline_pairs
from tdro_lightning.report.runs import RetrieverScores
from tdro_lightning.report.significance import FEW, LEVEL, PairedTest, holm, query_test, seed_test

ABOVE, BELOW = "*", "†"  # significantly above and below the baseline


@dataclass(frozen=True)
class Gain:
    """Mean score times 100 of baseline and result, and the difference with its test.

    Attributes:
        queries: number of queries, of one seed.
        test: over queries, None where scores of queries are not at hand.
        t_test, randomisation: p-values of `test`, adjusted by Holm.
        failed: the score is below that of the untrained model.
    """

    baseline: float
    score: float
    queries: int
    test: PairedTest | None
    t_test: float | None = None
    randomisation: float | None = None
    failed: bool = False

    @property
    def difference(self) -> float:
        """Score less baseline."""
        return self.score - self.baseline

    @property
    def mark(self) -> str:
        """`*` above the baseline or `†` below it, by the adjusted randomisation test.

        Nothing that is below the untrained model is marked as above.
        """
        if self.randomisation is None or self.randomisation >= LEVEL:
            return ""
        if self.difference > 0:
            return "" if self.failed else ABOVE
        return BELOW


@dataclass(frozen=True)
class BaselineComparison:
    """A result against its baseline by one metric, over the seeds and sets that both have.

    Attributes:
        sets: gain on each set, or group of sets; p-values adjusted over these.
        parts: gain on each set, those of a group apart; p-values adjusted over these. Empty where
            the sets were given in columns.
        average: gain on the mean of the sets; p-values adjusted over the compared results.
        by_seed: difference of the averages, by seed.
        over_seeds: test of `by_seed`, None with one seed; its p-value is in `seeds_t_test`,
            adjusted over the compared results.
        against: what the report was asked to compare with, by which the baseline was found.
    """

    result: Result
    baseline: Result
    metric: str
    sets: Mapping[str, Gain]
    parts: Mapping[str, Gain]
    average: Gain
    by_seed: Mapping[Seed, float]
    over_seeds: PairedTest | None
    seeds_t_test: float | None = None
    against: str = ""


def group_sets(names: Iterable[str]) -> dict[str, list[str]]:
    """Sets by the part of their name before a slash; such a group counts as one set."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[name.partition("/")[0]].append(name)
    return found


def compare_with_each(
    results: Sequence[Result], names: Sequence[str], metric: str
) -> list[BaselineComparison]:
    """Compare each result with each baseline that it has, in order of the results.

    The averages' p-values are adjusted over the results that are compared with one baseline: how
    many others are asked for does not change what a comparison says.

    Args:
        results: all, with the baselines and the untrained models.
        names: label, run or step of each baseline; one that is found by two names counts once.
        metric: what is compared.

    Raises:
        ConfigError: no result goes by a name, which is no usual one.
        DataError: as in `compare_with_baselines`.
    """
    found: list[BaselineComparison] = []
    for name in names:
        known = {(one.result.name, one.baseline.name) for one in found}
        pairs = [
            (result, other)
            for result, other in baseline_pairs(results, name)
            if (result.name, other.name) not in known
        ]
        found += [
            dataclasses.replace(one, against=name)
            for one in compare_with_baselines(pairs, metric, None, results)
        ]
    order = [result.name for result in results]
    return sorted(found, key=lambda one: order.index(one.result.name))


def compare_with_baselines(
    pairs: Sequence[tuple[Result, Result]],
    metric: str,
    columns: Mapping[str, Sequence[str]] | None = None,
    results: Sequence[Result] = (),
) -> list[BaselineComparison]:
    """Compare each result with its baseline, and adjust the averages' p-values over all of them.

    Args:
        pairs: results, each with its baseline.
        metric: what is compared.
        columns: the sets to compare on, by what they count as; a result that lacks one of them is
            left out. None takes all sets in common, grouped by `group_sets`.
        results: those among which the untrained models are.

    Raises:
        DataError: scores of queries are broken, or of other queries than the baseline's.
    """
    found = [_compare(result, other, metric, columns, results) for result, other in pairs]
    comparisons = [one for one in found if one is not None]
    averages = _adjust([one.average for one in comparisons])
    over_seeds = _holm([one.over_seeds for one in comparisons], "t_test")
    return [
        dataclasses.replace(one, average=average, seeds_t_test=p)
        for one, average, p in zip(comparisons, averages, over_seeds, strict=True)
    ]


def _compare(
    result: Result,
    baseline: Result,
    metric: str,
    columns: Mapping[str, Sequence[str]] | None,
    results: Sequence[Result],
) -> BaselineComparison | None:
    """Compare two results; None where they have no seed or set in common.

    Differences of a query are averaged over the seeds before the tests over queries. A result
    without training that has one seed is compared with every seed of the baseline.
    """
    pairs = _pairs(result, baseline)
    common = [n for n in baseline.common_sets(metric) if result.has(n, metric)]
    grouped = group_sets(common) if columns is None else columns
    names = [name for parts in grouped.values() for name in parts]
    if not pairs or not names or not set(names) <= set(common):
        return None
    differences = {name: _differences(pairs, name, metric) for name in names}
    first = next(iter(pairs.values()))[0]

    def gain(groups: Sequence[Sequence[str]]) -> Gain:
        """Gain on the mean of groups, each of which is the mean of its sets."""
        weights = {name: 1 / len(parts) / len(groups) for parts in groups for name in parts}
        known = [d for name in weights if (d := differences[name]) is not None]
        return Gain(
            fmean(_mean(theirs, groups, metric) for _, theirs in pairs.values()),
            fmean(_mean(ours, groups, metric) for ours, _ in pairs.values()),
            sum(first.sets[name].queries for name in weights),
            query_test(known, list(weights.values())) if len(known) == len(weights) else None,
            failed=below_untrained(result, results, metric, list(weights)),
        )

    groups = list(grouped.values())
    alone = {name: [name] for name in names} if columns is None else {}
    each = {parts: gain([parts]) for parts in {*map(tuple, groups), *map(tuple, alone.values())}}

    def adjusted(named: Mapping[str, Sequence[str]]) -> dict[str, Gain]:
        own = _adjust([each[tuple(parts)] for parts in named.values()])
        return dict(zip(named, own, strict=True))

    by_seed = {
        seed: _mean(ours, groups, metric) - _mean(theirs, groups, metric)
        for seed, (ours, theirs) in pairs.items()
    }
    return BaselineComparison(
        result,
        baseline,
        metric,
        adjusted(grouped),
        adjusted(alone),
        gain(groups),
        by_seed,
        seed_test(list(by_seed.values())) if len(by_seed) > 1 else None,
    )


def below_untrained(
    result: Result, results: Sequence[Result], metric: str, names: Sequence[str]
) -> bool:
    """Whether a result's mean over the sets is below that of the model it began from.

    Args:
        result: a trained one; any other is not below.
        results: all, with the untrained models.
        metric: what is compared.
        names: the sets; those that the untrained model was not evaluated on do not count.
    """
    for other in results if result.trained else ():
        if other.label.casefold() == "untrained" and other.model == result.model:
            known = [n for n in names if result.has(n, metric) and other.has(n, metric)]
            ours, theirs = result.average(known, metric), other.average(known, metric)
            if ours is not None and theirs is not None and ours < theirs:
                return True
    return False


def query_scores(path: Path, metric: str) -> dict[str, float]:
    """Each query's metric times 100.

    Raises:
        DataError: the file is missing, or a query lacks the metric.
    """
    content = read_json(path)
    try:
        return {query: 100 * float(scores[metric]) for query, scores in content.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DataError(f"{path}: must map each query to its scores, with {metric!r}") from None


def few_seeds_warning(comparisons: Sequence[BaselineComparison]) -> str:
    """A warning that names the results with fewer than `FEW` seeds; empty where all have more."""
    few = dict.fromkeys(
        f"{c.result.name} ({len(c.by_seed)})" for c in comparisons if len(c.by_seed) < FEW
    )
    if not few:
        return ""
    return (
        f"Fewer than {FEW} seeds stand behind {', '.join(few)}: neither a star nor a small p-value "
        "shows there that training again would give the same."
    )


def _pairs(result: Result, baseline: Result) -> dict[Seed, tuple[RetrieverScores, RetrieverScores]]:
    if not result.trained and len(result.by_seed) == 1:
        (one,) = result.by_seed.values()
        return {seed: (one, other) for seed, other in baseline.by_seed.items()}
    return {
        seed: (one, baseline.by_seed[seed])
        for seed, one in result.by_seed.items()
        if seed in baseline.by_seed
    }


def _differences(
    pairs: Mapping[Seed, tuple[RetrieverScores, RetrieverScores]], name: str, metric: str
) -> NDArray[np.float64] | None:
    """Difference of every query, mean over the seeds; None where a file is not at hand."""
    gains = []
    for pair in pairs.values():
        paths = [one.sets[name].per_query for one in pair]
        if not all(path.is_file() for path in paths):
            return None
        ours, theirs = (query_scores(path, metric) for path in paths)
        if ours.keys() != theirs.keys():
            raise DataError(
                f"{paths[0]} has other queries than {paths[1]}; evaluate both on the same set, "
                "or report them apart"
            )
        gains.append({query: ours[query] - theirs[query] for query in ours})
    if any(one.keys() != gains[0].keys() for one in gains):
        raise DataError(f"set {name}: the seeds have scores of different queries")
    by_seed = np.array([[one[query] for query in gains[0]] for one in gains], dtype=np.float64)
    return np.asarray(by_seed.mean(axis=0))


def _mean(one: RetrieverScores, groups: Sequence[Sequence[str]], metric: str) -> float:
    return 100 * fmean(fmean(one.sets[name].scores[metric] for name in parts) for parts in groups)


def _adjust(gains: Sequence[Gain]) -> list[Gain]:
    tests = [gain.test for gain in gains]
    adjusted = zip(gains, _holm(tests, "t_test"), _holm(tests, "randomisation"), strict=True)
    return [dataclasses.replace(gain, t_test=t, randomisation=p) for gain, t, p in adjusted]


def _holm(tests: Sequence[PairedTest | None], kind: str) -> list[float | None]:
    return holm([None if test is None else getattr(test, kind) for test in tests])
