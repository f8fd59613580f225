"""What a trial gains over its baseline, set by set and on average, with tests."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.averages import mean_over_sets
from tdro_lightning.files import read_json
from tdro_lightning.report.runs import Retriever
from tdro_lightning.report.significance import FEW, LEVEL, PairedTest, holm, query_test, seed_test
from tdro_lightning.report.trials import Seed, Trial

ABOVE, BELOW = "*", "†"  # significantly above and below the baseline


@dataclass(frozen=True)
class Gain:
    """Mean score times 100 of baseline and trial, and the difference with its test.

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
class Comparison:
    """A trial against its baseline by one metric, over the seeds and sets that both have.

    Attributes:
        sets: gain on each set, or group of sets; p-values adjusted over these.
        average: gain on the mean of the sets; p-values adjusted over the compared trials.
        by_seed: difference of the averages, by seed.
        over_seeds: test of `by_seed`, None with one seed; its p-value is in `seeds_t_test`,
            adjusted over the compared trials.
    """

    trial: Trial
    baseline: Trial
    metric: str
    sets: Mapping[str, Gain]
    average: Gain
    by_seed: Mapping[Seed, float]
    over_seeds: PairedTest | None
    seeds_t_test: float | None = None


def groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Sets by the part of their name before a slash; such a group counts as one set."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.partition("/")[0], []).append(name)
    return found


def compared(
    pairs: Sequence[tuple[Trial, Trial]],
    metric: str,
    columns: Mapping[str, Sequence[str]] | None = None,
    trials: Sequence[Trial] = (),
) -> list[Comparison]:
    """Compare each trial with its baseline, and adjust the averages' p-values over all of them.

    Args:
        pairs: trials, each with its baseline.
        metric: what is compared.
        columns: the sets to compare on, by what they count as; a trial that lacks one of them is
            left out. None takes all sets in common, grouped by `groups`.
        trials: those among which the untrained models are.

    Raises:
        DataError: scores of queries are broken, or of other queries than the baseline's.
    """
    found = [compare(trial, other, metric, columns, trials) for trial, other in pairs]
    comparisons = [one for one in found if one is not None]
    averages = _adjusted([one.average for one in comparisons])
    by_seeds = [None if one.over_seeds is None else one.over_seeds.t_test for one in comparisons]
    return [
        dataclasses.replace(one, average=average, seeds_t_test=p)
        for one, average, p in zip(comparisons, averages, _holm(by_seeds), strict=True)
    ]


def compare(
    trial: Trial,
    baseline: Trial,
    metric: str,
    columns: Mapping[str, Sequence[str]] | None = None,
    trials: Sequence[Trial] = (),
) -> Comparison | None:
    """Compare two trials; None where they have no seed or set in common.

    Differences of a query are averaged over the seeds before the tests over queries. A trial
    without training that has one seed is compared with every seed of the baseline.
    """
    pairs = _pairs(trial, baseline)
    common = [n for n in baseline.common_sets(metric) if trial.has(n, metric)]
    grouped = groups(common) if columns is None else columns
    names = [name for parts in grouped.values() for name in parts]
    if not pairs or not names or not set(names) <= set(common):
        return None
    differences = {name: _differences(pairs, name, metric) for name in names}

    def gain(parts: Sequence[Sequence[str]]) -> Gain:
        failed = below_untrained(trial, trials, metric, [name for part in parts for name in part])
        return dataclasses.replace(_gain(pairs, parts, differences, metric), failed=failed)

    gains = [gain([parts]) for parts in grouped.values()]
    by_seed = {
        seed: _mean(ours, grouped.values(), metric) - _mean(theirs, grouped.values(), metric)
        for seed, (ours, theirs) in pairs.items()
    }
    return Comparison(
        trial,
        baseline,
        metric,
        dict(zip(grouped, _adjusted(gains), strict=True)),
        gain(list(grouped.values())),
        by_seed,
        seed_test(list(by_seed.values())) if len(by_seed) > 1 else None,
    )


def below_untrained(
    trial: Trial, trials: Sequence[Trial], metric: str, names: Sequence[str]
) -> bool:
    """Whether a trial's mean over the sets is below that of the model it began from.

    Args:
        trial: a trained one; any other is not below.
        trials: all, with the untrained models.
        metric: what is compared.
        names: the sets; those that the untrained model was not evaluated on do not count.
    """
    for other in trials if trial.trained else ():
        scores = [(trial.score(n, metric), other.score(n, metric)) for n in names]
        known = {
            name: (ours, theirs)
            for name, (ours, theirs) in zip(names, scores, strict=True)
            if ours is not None and theirs is not None
        }
        if other.label.casefold() == "untrained" and other.model == trial.model and known:
            means = [mean_over_sets({n: v[i] for n, v in known.items()}) for i in (0, 1)]
            if means[0] < means[1]:
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


def few_seeds(comparisons: Sequence[Comparison]) -> str:
    """A warning that names the trials with fewer than `FEW` seeds; empty where all have more."""
    few = [f"{c.trial.name} ({len(c.by_seed)})" for c in comparisons if len(c.by_seed) < FEW]
    if not few:
        return ""
    return (
        f"Fewer than {FEW} seeds stand behind {', '.join(few)}: neither a star nor a small p-value "
        "shows there that training again would give the same."
    )


def content(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """All numbers of comparisons, for a JSON file."""
    return [
        {
            "retriever": one.trial.name,
            "run": one.trial.run,
            "model": one.trial.model,
            "baseline": one.baseline.name,
            "baseline_run": one.baseline.run,
            "metric": one.metric,
            "average": _content(one.average),
            "sets": {name: _content(gain) for name, gain in one.sets.items()},
            "seeds": {
                "count": len(one.by_seed),
                "warning": few_seeds([one]) or None,
                "differences": {str(seed): value for seed, value in one.by_seed.items()},
                "test": None if one.over_seeds is None else asdict(one.over_seeds),
                "t_test_holm": one.seeds_t_test,
            },
        }
        for one in comparisons
    ]


def _content(gain: Gain) -> dict[str, Any]:
    return {
        "baseline": gain.baseline,
        "score": gain.score,
        "queries": gain.queries,
        "difference": gain.difference,
        "mark": gain.mark,
        "below_untrained": gain.failed,
        "test": None if gain.test is None else asdict(gain.test),
        "t_test_holm": gain.t_test,
        "randomisation_holm": gain.randomisation,
    }


def _pairs(trial: Trial, baseline: Trial) -> dict[Seed, tuple[Retriever, Retriever]]:
    if not trial.trained and len(trial.by_seed) == 1:
        (one,) = trial.by_seed.values()
        return {seed: (one, other) for seed, other in baseline.by_seed.items()}
    return {
        seed: (one, baseline.by_seed[seed])
        for seed, one in trial.by_seed.items()
        if seed in baseline.by_seed
    }


def _differences(
    pairs: Mapping[Seed, tuple[Retriever, Retriever]], name: str, metric: str
) -> NDArray[np.float64] | None:
    """Difference of every query, mean over the seeds; None where a file is not at hand."""
    found = []
    for ours, theirs in pairs.values():
        paths = [one.per_query.get(name) for one in (ours, theirs)]
        if any(path is None or not path.is_file() for path in paths):
            return None
        scores, others = (query_scores(path, metric) for path in paths if path is not None)
        if scores.keys() != others.keys():
            raise DataError(
                f"{paths[0]} has other queries than {paths[1]}; evaluate both on the same set, "
                "or report them apart"
            )
        found.append({query: scores[query] - others[query] for query in scores})
    if any(one.keys() != found[0].keys() for one in found):
        raise DataError(f"set {name}: the seeds have scores of different queries")
    by_seed = np.array([[one[query] for query in found[0]] for one in found], dtype=np.float64)
    mean: NDArray[np.float64] = by_seed.mean(axis=0)
    return mean


def _gain(
    pairs: Mapping[Seed, tuple[Retriever, Retriever]],
    grouped: Sequence[Sequence[str]],
    differences: Mapping[str, NDArray[np.float64] | None],
    metric: str,
) -> Gain:
    """Gain on the mean of groups, each of which is the mean of its sets."""
    weights = {name: 1 / len(parts) / len(grouped) for parts in grouped for name in parts}
    first = next(iter(pairs.values()))[0]
    known = [d for name in weights if (d := differences[name]) is not None]
    return Gain(
        fmean(_mean(theirs, grouped, metric) for _, theirs in pairs.values()),
        fmean(_mean(ours, grouped, metric) for ours, _ in pairs.values()),
        sum(first.queries[name] for name in weights),
        query_test(known, list(weights.values())) if len(known) == len(weights) else None,
    )


def _mean(one: Retriever, grouped: Iterable[Sequence[str]], metric: str) -> float:
    return 100 * fmean(fmean(one.sets[name][metric] for name in parts) for parts in grouped)


def _adjusted(gains: Sequence[Gain]) -> list[Gain]:
    tests = [gain.test for gain in gains]
    t_tests = _holm([None if test is None else test.t_test for test in tests])
    signs = _holm([None if test is None else test.randomisation for test in tests])
    return [
        dataclasses.replace(gain, t_test=t, randomisation=p)
        for gain, t, p in zip(gains, t_tests, signs, strict=True)
    ]


def _holm(values: Sequence[float | None]) -> list[float | None]:
    """Adjust those that there are."""
    adjusted = iter(holm([value for value in values if value is not None]))
    return [None if value is None else next(adjusted) for value in values]
