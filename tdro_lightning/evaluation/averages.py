"""The average over evaluation sets."""

from collections.abc import Mapping
from statistics import fmean


def mean_over_sets(values: Mapping[str, float]) -> float:
    """Mean of a metric over sets; those named `group/part` are averaged first and count once.

    So the 12 forums of CQADupStack are one of BEIR's 15 benchmarks (Thakur et al., 2021).
    """
    groups: dict[str, list[float]] = {}
    for name, value in values.items():
        groups.setdefault(name.partition("/")[0], []).append(value)
    return fmean(map(fmean, groups.values()))
