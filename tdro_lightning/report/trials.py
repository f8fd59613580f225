"""Retrievers as trials: one way to train, over the seeds with which it was run."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tdro_lightning.errors import ConfigError
from tdro_lightning.report.identity import joined
from tdro_lightning.report.results import BASELINE, UNTRAINED, told_apart
from tdro_lightning.report.runs import Retriever, Run

Seed = int | None


@dataclass(frozen=True)
class Trial:
    """A retriever's evaluations by seed, under the name that tables show.

    Attributes:
        name: the label, with the step, model or run where several trials have that label.
        label: what the evaluation called it.
        run: name of the runs, which is the same for all seeds.
        model: what training began from, where the runs say.
    """

    name: str
    label: str
    run: str
    model: str | None
    by_seed: Mapping[Seed, Retriever]

    @property
    def trained(self) -> bool:
        """Whether training made this retriever."""
        return self.label.casefold() not in UNTRAINED

    def scores(self, name: str, metric: str) -> list[float] | None:
        """The metric times 100 on one set, one value a seed; None where a seed lacks it."""
        values = [one.sets.get(name, {}).get(metric) for one in self.by_seed.values()]
        known = [100 * value for value in values if value is not None]
        return known if len(known) == len(values) else None

    def common_sets(self, metric: str) -> list[str]:
        """The sets on which every seed was evaluated by the metric."""
        first = next(iter(self.by_seed.values()))
        return [name for name in first.sets if self.has(name, metric)]

    def has(self, name: str, metric: str) -> bool:
        """Whether every seed was evaluated on the set by the metric."""
        return self.scores(name, metric) is not None

    def score(self, name: str, metric: str) -> float | None:
        """Mean of `scores` over the seeds."""
        values = self.scores(name, metric)
        return None if values is None else fmean(values)


def all_trials(runs: Sequence[Run]) -> tuple[Trial, ...]:
    """The trials of all runs: those without training, the baseline, the others by run.

    Runs of one name, label and model that differ in the seed are one trial, and so are those of
    one seed with different evaluation sets. Where a set stands twice for a seed, the runs differ
    in something else, and each is a trial of its own.
    """
    found: dict[tuple[str, str, str | None], list[tuple[Run, Retriever]]] = {}
    for run in runs:
        for retriever in run.retrievers:
            key = (run.bare_name, retriever.label, run.model)
            found.setdefault(key, []).append((run, retriever))
    trials: list[Trial] = []
    for (name, label, model), entries in found.items():
        by_seed: dict[Seed, list[Retriever]] = {}
        for run, one in sorted(entries, key=lambda entry: entry[0].seed or 0):
            by_seed.setdefault(run.seed, []).append(one)
        if all(_disjoint(parts) for parts in by_seed.values()):
            merged = {seed: joined(parts) for seed, parts in by_seed.items()}
            trials.append(Trial(label, label, name, model, merged))
        else:
            trials += [
                Trial(label, label, run.name, model, {run.seed: one}) for run, one in entries
            ]
    return tuple(sorted(_named(_without_copies(trials)), key=_rank))


def baseline_pairs(trials: Sequence[Trial], baseline: str) -> list[tuple[Trial, Trial]]:
    """Each trial with what it is compared with: its model's baseline, if there is one, not more.

    The two have a set in common. Of several baselines, the one from the same chain is meant
    (`demo/top70` and `demo/uniform`). A retriever without training is of any model.

    Args:
        trials: all trials, with the baselines.
        baseline: label, run or step that the baselines go by.

    Raises:
        ConfigError: no trial goes by that name, which is not the usual one; says what there is.
    """
    meant = baselines(trials, baseline)
    if not meant and baseline != BASELINE:
        known = sorted({one.label for one in trials} | {one.run for one in trials})
        raise ConfigError(
            f"report.baseline={baseline}: no retriever has that label or run name; "
            f"there are {', '.join(known) or 'none'}"
        )
    found = [(trial, _partner(trial, meant)) for trial in trials]
    return [(trial, other) for trial, other in found if isinstance(other, Trial)]


def unpaired(trials: Sequence[Trial], baseline: str) -> dict[str, list[Trial]]:
    """The trials for which `baseline_pairs` finds no baseline, by the reason; not the baselines."""
    meant = baselines(trials, baseline)
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        reason = _partner(trial, meant) if meant else f"no evaluated `{baseline}` in these runs"
        if isinstance(reason, str) and trial not in meant:
            found.setdefault(reason, []).append(trial)
    return found


def _partner(trial: Trial, meant: Sequence[Trial]) -> Trial | str:
    """What a trial is compared with, or why with nothing."""
    own = [one for one in meant if trial.model == one.model or not trial.trained]
    found = [one for one in own if _sets(one) & _sets(trial)]
    candidates = [one for one in found if _chain(one) == _chain(trial)] or found
    if len(candidates) == 1 and candidates[0] != trial:
        return candidates[0]
    if not own:
        return f"no baseline of the model {trial.model}"
    if not found:
        return "no evaluation set in common with the baseline"
    return f"several baselines fit ({', '.join(one.name for one in candidates)})"


def baselines(trials: Sequence[Trial], baseline: str) -> list[Trial]:
    """The trials that a label, a run's name or a step's name stands for."""
    labelled = [one for one in trials if one.label.casefold() == baseline.casefold()]
    return labelled or [one for one in trials if baseline in (one.run, _step(one))]


def _disjoint(parts: Sequence[Retriever]) -> bool:
    names = [name for part in parts for name in part.sets]
    return len(set(names)) == len(names)


def _sets(trial: Trial) -> set[str]:
    return {name for one in trial.by_seed.values() for name in one.sets}


def _chain(trial: Trial) -> str:
    return trial.run.partition(" [")[0].rpartition("/")[0]


def _step(trial: Trial) -> str:
    return trial.run.partition(" [")[0].rpartition("/")[2]


def _without_copies(trials: Sequence[Trial]) -> list[Trial]:
    """The trials without those that repeat an untrained retriever's scores."""
    kept: list[Trial] = []
    for trial in trials:
        scores = list(trial.by_seed.values())
        known = any(
            all(score == other for score in scores for other in one.by_seed.values())
            for one in kept
            if one.label == trial.label
        )
        if trial.trained or not known:
            kept.append(trial)
    return kept


def _named(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that share a label get, behind it, the first of these that tells them apart."""
    names = told_apart(
        [trial.label for trial in trials],
        [
            [_step(trial) for trial in trials],
            [trial.model for trial in trials],
            [trial.run for trial in trials],
            [f"{trial.run}, {trial.model}" for trial in trials],
        ],
    )
    return [
        dataclasses.replace(trial, name=name) for trial, name in zip(trials, names, strict=True)
    ]


def _rank(trial: Trial) -> int:
    order = (*UNTRAINED, BASELINE)
    label = trial.label.casefold()
    return order.index(label) if label in order else len(order)
