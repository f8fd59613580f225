"""Evaluated retrievers of runs: one way to train, over the seeds with which it was run."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Self

from tdro_lightning.errors import ConfigError
from tdro_lightning.evaluation.averages import mean_over_sets
from tdro_lightning.report.identity import merge_scores
from tdro_lightning.report.paper_tables import published_model
from tdro_lightning.report.runs import RetrieverScores, Run

BASELINES = ("uniform", "proportional")  # what to train without a choice, by size or without
UNTRAINED = ("bm25", "untrained")
MAIN_METRIC = "ndcg@10"
TITLES = {
    MAIN_METRIC: "nDCG@10",
    "recall@100": "Recall@100",
    "recall@1000": "Recall@1000",
    "mrr@10": "MRR@10",
    "accuracy@10": "Accuracy@10",
    "accuracy@100": "Accuracy@100",
}
Seed = int | None


@dataclass(frozen=True)
class Result:
    """A retriever's scores by seed, under the name that tables show.

    Attributes:
        name: the label, with the step, model or run where several results have that label.
        label: what the evaluation called it.
        run: name of the run, or of the runs, which is the same for all seeds.
        model: what training began from, where the runs record it; a published model's base.
    """

    name: str
    label: str
    run: str
    model: str | None
    by_seed: Mapping[Seed, RetrieverScores]

    @classmethod
    def of_run(cls, run: Run, one: RetrieverScores) -> Self:
        """The result of one seed."""
        return cls(one.label, one.label, run.name, _model(run, one), {run.seed: one})

    @property
    def rank(self) -> int:
        """0 for BM25, 1 for the untrained encoder, then the baselines, and last all others."""
        order = (*UNTRAINED, *BASELINES)
        label = self.label.casefold()
        return order.index(label) if label in order else len(order)

    @property
    def trained(self) -> bool:
        """Whether training made this retriever."""
        return self.rank >= len(UNTRAINED)

    @property
    def chain_and_step(self) -> tuple[str, str]:
        """The run's name without what distinguishes it, split at its last slash."""
        chain, _, step = self.run.partition(" [")[0].rpartition("/")
        return chain, step

    @property
    def sets(self) -> list[str]:
        """The sets on which any seed was evaluated."""
        return list(dict.fromkeys(name for one in self.by_seed.values() for name in one.sets))

    def scores(self, name: str, metric: str) -> list[float] | None:
        """The metric times 100 on one set, one value a seed; None where a seed lacks it."""
        seeds = [one.sets[name].scores for one in self.by_seed.values() if name in one.sets]
        measured = [100 * scores[metric] for scores in seeds if metric in scores]
        return measured if len(measured) == len(self.by_seed) else None

    def score(self, name: str, metric: str) -> float | None:
        """Mean of `scores` over the seeds."""
        values = self.scores(name, metric)
        return None if values is None else fmean(values)

    def has(self, name: str, metric: str) -> bool:
        """Whether every seed was evaluated on the set by the metric."""
        return self.scores(name, metric) is not None

    def common_sets(self, metric: str) -> list[str]:
        """The sets on which every seed was evaluated by the metric."""
        return [name for name in self.sets if self.has(name, metric)]

    def average(self, names: Sequence[str], metric: str) -> float | None:
        """Mean of `score` over those sets that have one, as `mean_over_sets` takes it."""
        scores = {name: self.score(name, metric) for name in names}
        measured = {name: score for name, score in scores.items() if score is not None}
        return mean_over_sets(measured) if measured else None


def results_by_run(runs: Sequence[Run]) -> tuple[Result, ...]:
    """A result for each retriever of each run: those without training, the baselines, the others.

    The same scores of the same untrained retriever in several runs are kept once. Where several
    runs have a label in common, the step's or the run's name is appended.
    """
    results = [Result.of_run(run, one) for run in runs for one in run.retrievers]
    return _named_and_sorted(results, with_models=False)


def results_over_seeds(runs: Sequence[Run]) -> tuple[Result, ...]:
    """A result for each way to train: those without training, the baselines, the others by run.

    Runs of one name, label and model that differ in the seed are one result, and so are those of
    one seed with different evaluation sets. Where a seed has a duplicate set, the runs differ in
    something else, and each is a result of its own.
    """
    entries: dict[tuple[str | None, ...], list[tuple[Run, RetrieverScores]]] = defaultdict(list)
    for run in runs:
        for scores in run.retrievers:
            known = published_model(scores.source)  # several may have one label
            model = run.model if known is None else known.name
            entries[run.bare_name, scores.label, model].append((run, scores))
    results: list[Result] = []
    for own in entries.values():
        run, scores = own[0]
        name, label, model = run.bare_name, scores.label, _model(run, scores)
        by_seed: dict[Seed, list[RetrieverScores]] = defaultdict(list)
        for run, scores in sorted(own, key=lambda entry: entry[0].seed or 0):
            by_seed[run.seed].append(scores)
        merged = {seed: merge_scores(parts) for seed, parts in by_seed.items()}
        if sum(len(one.sets) for one in merged.values()) == sum(len(one.sets) for _, one in own):
            results.append(Result(label, label, name, model, merged))
        else:
            results += [Result.of_run(run, one) for run, one in own]
    return _named_and_sorted(results, with_models=True)


def _model(run: Run, one: RetrieverScores) -> str | None:
    """What a retriever's training began from, by the run; of a published model, by its name."""
    known = published_model(one.source)
    return run.model if known is None else known.base


def _named_and_sorted(results: Sequence[Result], *, with_models: bool) -> tuple[Result, ...]:
    """The results without repeated scores of untrained retrievers, under distinct names."""
    kept: list[Result] = []
    for result in results:
        if result.trained or not any(_same_scores(result, other) for other in kept):
            kept.append(result)
    names: dict[int, str] = {}
    for label in dict.fromkeys(one.label for one in kept):
        own = [i for i, one in enumerate(kept) if one.label == label]
        kinds = list(zip(*(_places(kept[i], with_models) for i in own), strict=True))
        places = next((texts for texts in kinds if len(set(texts)) == len(own)), kinds[-1])
        names |= {
            i: f"{label} ({place})" if len(own) > 1 else label
            for i, place in zip(own, places, strict=True)
        }
    renamed = [dataclasses.replace(one, name=names[i]) for i, one in enumerate(kept)]
    return tuple(sorted(renamed, key=lambda result: result.rank))


def _places(result: Result, with_models: bool) -> tuple[str, ...]:
    """What may stand behind a label that several results have in common, the preferred first."""
    step, run, model = result.chain_and_step[1], result.run, str(result.model)
    return (step, model, run, f"{run}, {model}") if with_models else (step, run)


def _same_scores(result: Result, other: Result) -> bool:
    return all(a == b for a in result.by_seed.values() for b in other.by_seed.values())


def baseline_pairs(results: Sequence[Result], baseline: str) -> list[tuple[Result, Result]]:
    """Each result with what it is compared with: its model's baseline, if there is exactly one.

    The two have a set in common. Of several baselines, the one from runs of the same name is meant,
    as in a sweep over rules, or else the one from the same chain (`demo/top70` and `demo/uniform`).
    A retriever without training is of any model.

    Args:
        results: all results, with the baselines.
        baseline: label, run or step that the baselines go by.

    Raises:
        ConfigError: no result goes by that name, which is no usual one; lists what there is.
    """
    candidates = baselines(results, baseline)
    if not candidates and baseline not in BASELINES:
        names = sorted({one.label for one in results} | {one.run for one in results})
        raise ConfigError(
            f"report.baselines: no retriever has the label or run name {baseline!r}; "
            f"there are {', '.join(names) or 'none'}"
        )
    pairs = [(result, _partner(result, candidates)) for result in results]
    return [(result, other) for result, other in pairs if isinstance(other, Result)]


def reasons_without_baseline(results: Sequence[Result], baseline: str) -> dict[str, list[Result]]:
    """The results for which `baseline_pairs` finds no baseline, by the reason.

    The baselines themselves are left out.
    """
    candidates = baselines(results, baseline)
    reasons: dict[str, list[Result]] = {}
    for result in results:
        no_baseline = f"no evaluated `{baseline}` in these runs"
        reason = _partner(result, candidates) if candidates else no_baseline
        if isinstance(reason, str) and result not in candidates:
            reasons.setdefault(reason, []).append(result)
    return reasons


def baselines(results: Sequence[Result], baseline: str) -> list[Result]:
    """The results that have a label, or else those of a run's name or of a step's name."""
    labelled = [one for one in results if one.label.casefold() == baseline.casefold()]
    return labelled or [one for one in results if baseline in (one.run, one.chain_and_step[1])]


def _partner(result: Result, candidates: Sequence[Result]) -> Result | str:
    """What a result is compared with, or the reason why it is compared with nothing."""
    own = [one for one in candidates if result.model == one.model or not result.trained]
    usable = [one for one in own if set(one.sets) & set(result.sets)]
    place = result.chain_and_step
    best = (
        [one for one in usable if one.chain_and_step == place]
        or [one for one in usable if one.chain_and_step[0] == place[0]]
        or usable
    )
    if len(best) == 1 and best[0] != result:
        return best[0]
    if not own:
        return f"no baseline of the model {result.model}"
    if not usable:
        return "no evaluation set in common with the baseline"
    return f"several baselines fit ({', '.join(one.name for one in best)})"
