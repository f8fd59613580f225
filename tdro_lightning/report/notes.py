"""What a report says in a line each: what is unfinished, failed, or without a gain, and why."""

import re
from collections import defaultdict
from collections.abc import Sequence

from tdro_lightning.report.gains import BaselineComparison, below_untrained
from tdro_lightning.report.identity import list_names, set_notes
from tdro_lightning.report.results import (
    BASELINES,
    Result,
    baselines,
    reasons_without_baseline,
)
from tdro_lightning.report.runs import Run

PERCENT = re.compile(r"(\d+)%")


def report_notes(
    runs: Sequence[Run],
    results: Sequence[Result],
    comparisons: Sequence[BaselineComparison],
    metric: str | None,
    asked: Sequence[str],
) -> list[str]:
    """A line each; none where there is nothing to say.

    Args:
        runs: all runs of the report.
        results: of these runs.
        comparisons: by the metric, with each baseline.
        metric: the main one, None where nothing is evaluated.
        asked: label, run or step of each baseline.
    """
    unfinished = ", ".join(f"{run.name} ({run.status})" for run in runs if run.status != "finished")
    failed = ", ".join(
        one.name
        for one in results
        if metric and below_untrained(one, results, metric, one.common_sets(metric))
    )
    notes = [
        f"Not finished, so scores and weights of these runs are left out: {unfinished}."
        if unfinished
        else "",
        *_warnings(runs),
        *set_notes(runs),
        f"Below the untrained model on average, so training has failed: {failed}."
        if failed
        else "",
        *(_without_gain(results, comparisons, asked) if results else ()),
    ]
    return [note for note in notes if note]


def _warnings(runs: Sequence[Run]) -> list[str]:
    """What runs warned of; warnings that differ in their percentages only are one line."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for run in runs:
        for text in run.warnings:
            alike = len(PERCENT.findall(text)) == 1
            found[PERCENT.sub("%", text) if alike else text].append((run.name, text))
    notes = []
    for same in found.values():
        text, texts = same[0][1], {text for _, text in same}
        if len(texts) > 1:
            shares = sorted(int(PERCENT.findall(text)[0]) for text in texts)
            text = PERCENT.sub(f"{shares[0]}% to {shares[-1]}%", text)
        notes.append(f"Warning of {list_names(name for name, _ in same)}: {text}")
    return notes


def _without_gain(
    results: Sequence[Result], comparisons: Sequence[BaselineComparison], asked: Sequence[str]
) -> list[str]:
    """Which results have no gain, why, and what to do about it; nothing where all have one.

    A usual baseline that is not among the results is no fault where another one is.
    """
    present = [name for name in asked if baselines(results, name)]
    missing = {name: _missing(results, comparisons, name) for name in present}
    if comparisons:
        return [f"Without a gain over {name}: {text}." for name, text in missing.items() if text]
    if not present:
        names = " or ".join(f"`{name}`" for name in asked)
        reason = f"{', '.join(one.name for one in results)}: no evaluated {names} in these runs"
        return [f"There is no table of gains ({reason}). {_train(asked)}"]
    reason = "; ".join(dict.fromkeys(text for text in missing.values() if text))
    if not reason:
        return ["There is no table of gains: only the baseline is evaluated."]
    return [f"There is no table of gains ({reason}). {_train(asked)}"]


def _missing(
    results: Sequence[Result], comparisons: Sequence[BaselineComparison], name: str
) -> str:
    """The results that have no gain over one baseline, by the reason."""
    reasons = reasons_without_baseline(results, name)
    own = baselines(results, name)
    compared = {one.result.name for one in comparisons if one.baseline in own}
    known = {one.name for named in reasons.values() for one in named} | {one.name for one in own}
    if rest := [one for one in results if one.name not in compared | known]:
        reasons["no seed or metric in common with the baseline"] = rest
    return "; ".join(
        f"{', '.join(one.name for one in named)}: {reason}" for reason, named in reasons.items()
    )


def _train(asked: Sequence[str]) -> str:
    """What to do where no baseline can be compared with."""
    usual = next((name for name in asked if name in BASELINES), None)
    if usual is None:
        return "Name other baselines with report.baselines."
    recipe = (
        "finetune_uniform"
        if usual == BASELINES[0]
        else "finetune_mixture transfer.rule=proportional"
    )
    return (
        f"Train the baseline with +experiment={recipe} and evaluate it on the same sets "
        f"(+evaluate.encoders.{usual}=FOLDER/encoder), or name others with report.baselines."
    )
