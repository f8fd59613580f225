"""What falls below a baseline, set by set and domain by domain, also where the mean rises."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tdro_lightning.evaluation.averages import mean_over_sets
from tdro_lightning.evaluation.metrics import MAIN_METRICS
from tdro_lightning.report.gains import BaselineComparison, compare_with_each
from tdro_lightning.report.results import MAIN_METRIC, Result, Seed
from tdro_lightning.report.runs import RetrieverScores, Run

ALARM = 1.0  # points, which are scores times 100
ROUNDING = 1e-9  # points by which a difference of just the amount may come out larger
SETS, DOMAINS = "sets", "domains"
LOSS = "loss"
WHEN = ("every", "patience", "metric")  # settings of validation that leave its values as they are
VALIDATION = (MAIN_METRIC, LOSS)  # series of validation; the first one that two runs have counts


@dataclass(frozen=True)
class Change:
    """A score of baseline and result times 100, and how much better the result's is.

    Attributes:
        difference: below 0 where the result is worse; of a loss, that is where it is larger.
        mark: of significance, as in the tables of gains; empty where nothing is tested.
    """

    name: str
    baseline: float
    score: float
    difference: float
    mark: str = ""


@dataclass(frozen=True)
class Changes:
    """How a trained retriever differs from a baseline on each set, or each training domain.

    Attributes:
        comparison: of the two, over the sets that both have.
        kind: `sets` or `domains`.
        metric: what is compared.
        mean: difference of the means; sets of a group count as one.
    """

    comparison: BaselineComparison
    kind: str
    metric: str
    mean: float
    entries: tuple[Change, ...]

    @property
    def rose(self) -> int:
        """The number of entries on which the result is better."""
        return sum(entry.difference > ROUNDING for entry in self.entries)

    def fell(self, alarm: float) -> list[Change]:
        """The entries on which the result is worse by more than so many points, worst first."""
        fallen = [entry for entry in self.entries if falls(entry.difference, alarm)]
        return sorted(fallen, key=lambda entry: (entry.difference, entry.name))


def falls(difference: float, alarm: float) -> bool:
    """Whether a difference is a fall of more than so many points; just as many is none."""
    return -difference > alarm + ROUNDING


def comparisons_by_other_metrics(
    results: Sequence[Result], names: Sequence[str], metric: str
) -> list[BaselineComparison]:
    """Comparisons on the sets that no result has the report's metric of, such as sets of answers.

    Args:
        results: all results.
        names: of the baselines, as in `compare_with_each`.
        metric: the report's.
    """
    used = set(_main_metrics(results).values())
    return [
        one
        for other in MAIN_METRICS
        if other != metric and other in used
        for one in compare_with_each(results, names, other)
    ]


def set_changes(
    results: Sequence[Result], comparisons: Sequence[BaselineComparison]
) -> list[Changes]:
    """Changes on every evaluation set by its main metric, those of a group apart; seeds averaged.

    Args:
        results: all results.
        comparisons: those by the report's metric, and by the other ones.
    """
    found, main = [], _main_metrics(results)
    for one in comparisons:
        entries = tuple(
            Change(name, gain.baseline, gain.score, gain.difference, gain.mark)
            for name, gain in one.parts.items()
            if main.get(name, one.metric) == one.metric
        )
        if entries and one.result.trained:
            mean = mean_over_sets({entry.name: entry.difference for entry in entries})
            found.append(Changes(one, SETS, one.metric, mean, entries))
    return found


def domain_changes(runs: Sequence[Run], comparisons: Sequence[BaselineComparison]) -> list[Changes]:
    """Changes on every training domain in the validation of the trainings, seeds averaged.

    Of each training, the values at the step that it kept count. Trainings without validation of
    single domains, on other rows, or whose folders are not among the runs, have none.

    Args:
        runs: all runs of the report.
        comparisons: by the report's metric.
    """
    folders = {run.folder.resolve(): run for run in runs}
    found = []
    for one in comparisons:
        pairs = [
            (ours, theirs)
            for seed in one.by_seed
            if (ours := _training(one.result, seed, folders))
            and (theirs := _training(one.baseline, seed, folders))
            and _validated_rows(ours) == _validated_rows(theirs)
        ]
        for metric in VALIDATION if one.result.trained else ():
            if entries := _domain_entries(pairs, metric):
                mean = fmean(entry.difference for entry in entries)
                found.append(Changes(one, DOMAINS, metric, mean, entries))
                break
    return found


def score_differences(
    ours: RetrieverScores, theirs: RetrieverScores, metric: str
) -> dict[str, float]:
    """Difference in points on each set that two evaluations have the metric of."""
    return {
        name: 100 * (own.scores[metric] - theirs.sets[name].scores[metric])
        for name, own in ours.sets.items()
        if name in theirs.sets and metric in own.scores and metric in theirs.sets[name].scores
    }


def _main_metrics(results: Sequence[Result]) -> dict[str, str]:
    """The metric that sums up each set; sets of which no result has such a one are left out."""
    return {
        name: metric
        for metric in reversed(MAIN_METRICS)  # the first one of a set is written last
        for result in results
        for name in result.common_sets(metric)
    }


def _training(result: Result, seed: Seed, folders: Mapping[Path, Run]) -> Run | None:
    """The run that trained a retriever of one seed, if it is among the runs."""
    scores = result.by_seed.get(seed)
    return folders.get(scores.origin.resolve()) if scores and scores.origin else None


def _validated_rows(run: Run) -> dict[str, Any]:
    """The settings of validation, without those that do not change what is measured."""
    settings = run.config.get("validation")
    kept = settings if isinstance(settings, dict) else {}
    return {key: value for key, value in kept.items() if key not in WHEN}


def _domain_entries(pairs: Sequence[tuple[Run, Run]], metric: str) -> tuple[Change, ...]:
    """A change for each domain that two trainings have validated; those of all seeds averaged."""
    values = [
        (_at_kept_step(ours, metric), _at_kept_step(theirs, metric)) for ours, theirs in pairs
    ]
    values = [(ours, theirs) for ours, theirs in values if ours.keys() & theirs.keys()]
    names = [name for ours, theirs in values[:1] for name in ours if name in theirs]
    changes = []
    for name in names:
        if all(name in ours and name in theirs for ours, theirs in values):
            score = 100 * fmean(ours[name] for ours, _ in values)
            baseline = 100 * fmean(theirs[name] for _, theirs in values)
            difference = baseline - score if metric == LOSS else score - baseline
            changes.append(Change(name, baseline, score, difference))
    return tuple(changes)


def _at_kept_step(run: Run, metric: str) -> dict[str, float]:
    """The metric of each domain at the kept step, or else the last one; NaN is left out."""
    step = _kept_step(run)
    values = {}
    for domain, series in run.series(f"validation/{metric}/").items():
        by_step: dict[int | None, float] = dict(zip(series.steps, series.values, strict=True))
        values[domain] = by_step.get(step, series.values[-1])
    return {domain: value for domain, value in values.items() if math.isfinite(value)}


def _kept_step(run: Run) -> int | None:
    """The first step with the best value of what decides; None without such a series."""
    settings = run.config.get("validation")
    asked = settings.get("metric") if isinstance(settings, dict) else None
    for metric in (asked, *VALIDATION):
        if series := run.history.get(f"validation/{metric}"):
            sign = 1 if metric == LOSS else -1
            points = zip(series.values, series.steps, strict=True)
            ordered = sorted((sign * value, step) for value, step in points if math.isfinite(value))
            return ordered[0][1] if ordered else None
    return None
