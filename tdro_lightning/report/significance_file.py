"""What `significance.json` holds: every number behind the tables of gains, and every alarm."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tdro_lightning.report.alarms import Changes
from tdro_lightning.report.gains import BaselineComparison, Gain, few_seeds_warning


def comparisons_as_json(
    comparisons: Sequence[BaselineComparison], changes: Sequence[Changes] = (), alarm: float = 0.0
) -> list[dict[str, Any]]:
    """All numbers of comparisons, with p-values before and after adjustment.

    Args:
        comparisons: an entry each.
        changes: of the sets and domains; each is listed under the comparison of its retrievers.
        alarm: by how many points something has to fall to be listed.
    """
    return [
        {
            "retriever": one.result.name,
            "run": one.result.run,
            "model": one.result.model,
            "against": one.against,
            "baseline": one.baseline.name,
            "baseline_run": one.baseline.run,
            "metric": one.metric,
            "average": _gain_as_json(one.average),
            "sets": {name: _gain_as_json(gain) for name, gain in one.sets.items()},
            "seeds": {
                "count": len(one.by_seed),
                "warning": few_seeds_warning([one]) or None,
                "differences": {str(seed): value for seed, value in one.by_seed.items()},
                "test": None if one.over_seeds is None else asdict(one.over_seeds),
                "t_test_holm": one.seeds_t_test,
            },
            "alarms": [_changes_as_json(own, alarm) for own in changes if own.comparison is one],
        }
        for one in comparisons
    ]


def _gain_as_json(gain: Gain) -> dict[str, Any]:
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


def _changes_as_json(own: Changes, alarm: float) -> dict[str, Any]:
    """What fell, worst first; also where nothing did, so that a reader can tell."""
    return {
        "of": own.kind,
        "metric": own.metric,
        "count": len(own.entries),
        "rose": own.rose,
        "mean_difference": own.mean,
        "alarm": alarm,
        "fell": [asdict(entry) for entry in own.fell(alarm)],
    }
