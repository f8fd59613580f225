"""What a reader of a report must know before its tables: what is left out, unsure or missing."""

from collections.abc import Sequence

from tdro_lightning.report.gains import Comparison, below_untrained
from tdro_lightning.report.identity import set_notes
from tdro_lightning.report.results import BASELINE
from tdro_lightning.report.runs import Run
from tdro_lightning.report.trials import Trial, baselines, unpaired


def report_notes(
    runs: Sequence[Run],
    trials: Sequence[Trial],
    comparisons: Sequence[Comparison],
    metric: str | None,
    baseline: str,
) -> list[str]:
    """A line each; none where there is nothing to say.

    Args:
        runs: all runs of the report.
        trials: of these runs.
        comparisons: by the metric, with the baseline.
        metric: the main one, None where nothing is evaluated.
        baseline: label, run or step that the baseline goes by.
    """
    return [
        *_unfinished(runs),
        *_warnings(runs),
        *set_notes(runs),
        *(_failed(trials, metric) if metric else []),
        *(_without_gain(trials, comparisons, baseline) if trials else []),
    ]


def _unfinished(runs: Sequence[Run]) -> list[str]:
    left = [f"{run.name} ({run.status})" for run in runs if run.status != "finished"]
    if not left:
        return []
    return [f"Not finished, so scores and weights of these runs are left out: {', '.join(left)}."]


def _warnings(runs: Sequence[Run]) -> list[str]:
    found: dict[str, list[str]] = {}
    for run in runs:
        for text in run.warnings:
            found.setdefault(text, []).append(run.name)
    return [f"Warning of {', '.join(names)}: {text}" for text, names in found.items()]


def _failed(trials: Sequence[Trial], metric: str) -> list[str]:
    failed = [
        one.name
        for one in trials
        if one.trained and below_untrained(one, trials, metric, one.common_sets(metric))
    ]
    if not failed:
        return []
    return [f"Below the untrained model on average, so training has failed: {', '.join(failed)}."]


def _without_gain(
    trials: Sequence[Trial], comparisons: Sequence[Comparison], baseline: str
) -> list[str]:
    reasons = unpaired(trials, baseline)
    others = [one.trial.name for one in comparisons]
    others += [one.name for own in reasons.values() for one in own]
    others += [one.name for one in baselines(trials, baseline)]
    if rest := [one for one in trials if one.name not in others]:
        reasons["no seed or metric in common with the baseline"] = rest
    missing = "; ".join(
        f"{', '.join(one.name for one in own)}: {reason}" for reason, own in reasons.items()
    )
    if comparisons:
        return [f"Without a gain: {missing}."] if reasons else []
    if not reasons:
        return ["There is no table of gains: only the baseline is evaluated."]
    how = "Name another baseline with report.baseline."
    if baseline == BASELINE:
        how = (
            "Train the baseline with +experiment=finetune_uniform and evaluate it on the same sets "
            "(+evaluate.encoders.uniform=FOLDER/encoder), or name another with report.baseline."
        )
    return [f"There is no table of gains ({missing}). {how}"]
