"""Paired tests of one retriever against another: over queries, over sets of them, over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tdro_lightning.errors import DataError

LEVEL = 0.05
CONFIDENCE = 0.95
FEW = 5  # with fewer seeds a test over seeds is no evidence, and the report says so
RESAMPLES = 9999
BATCH = 4_000_000  # signs drawn at a time

Differences = NDArray[np.float64]


@dataclass(frozen=True)
class PairedTest:
    """A mean difference, its 95 % confidence interval, and two-sided p-values.

    `t_test` and the interval are None where the differences have no spread to judge by: fewer than
    two of them, or all alike. `randomisation` is None where it was not asked for.
    """

    difference: float
    low: float | None
    high: float | None
    t_test: float | None
    randomisation: float | None


def query_test(
    sets: Sequence[Differences],
    weights: Sequence[float] = (1.0,),
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedTest:
    """Test the weighted sum over sets of the mean difference of each set's queries.

    With one set these are the paired t-test and the paired randomisation test. With several, the
    queries of each set are a sample of their own: Welch's t-test for a sum of means, with
    Satterthwaite's degrees of freedom, and random signs for the queries of all sets.

    Args:
        sets: of each set, a difference a query [N]; at least one query each.
        weights: of each set, such as 1 / number of sets for their average.
        resamples: random sign patterns, so that no p-value is below 1 / (resamples + 1).
        seed: of the signs.

    Raises:
        DataError: a set has no query.
    """
    if any(len(one) == 0 for one in sets):
        raise DataError("a set without queries cannot be tested")
    difference = sum(w * float(one.mean()) for one, w in zip(sets, weights, strict=True))
    each = [w / len(one) * one for one, w in zip(sets, weights, strict=True)]
    return PairedTest(
        difference,
        *_t_test(difference, sets, weights),
        _randomisation(np.concatenate(each), resamples, seed),
    )


def seed_test(differences: Sequence[float]) -> PairedTest:
    """Test the differences of two retrievers over seeds, one for each seed, with a t-test."""
    values = np.asarray(differences, dtype=np.float64)
    mean = float(values.mean())
    return PairedTest(mean, *_t_test(mean, [values], [1.0]), None)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted so that the chance of any false finding among them keeps the level.

    None stays None and does not count. Source: Holm (1979), the step-down method.
    """
    adjusted: list[float | None] = [None] * len(values)
    ordered = sorted((value, i) for i, value in enumerate(values) if value is not None)
    largest = 0.0
    for rank, (value, i) in enumerate(ordered):
        adjusted[i] = largest = max(largest, min(1.0, (len(ordered) - rank) * value))
    return adjusted


def _t_test(
    difference: float, sets: Sequence[Differences], weights: Sequence[float]
) -> tuple[float | None, float | None, float | None]:
    """Lower and upper end of the interval, and p."""
    if any(len(one) < 2 for one in sets):
        return None, None, None
    parts = [w**2 * float(one.var(ddof=1)) / len(one) for one, w in zip(sets, weights, strict=True)]
    variance = sum(parts)
    if variance == 0:
        return None, None, None
    freedom = variance**2 / sum(p**2 / (len(one) - 1) for p, one in zip(parts, sets, strict=True))
    error = variance**0.5
    low, high = stats.t.interval(CONFIDENCE, freedom, loc=difference, scale=error)
    p_value = 2 * stats.t.sf(abs(difference) / error, freedom)
    return float(low), float(high), float(p_value)


def _randomisation(values: Differences, resamples: int, seed: int) -> float:
    """p of the sum of values under random signs."""
    moved = values[values != 0]  # a zero has no sign to change
    if len(moved) == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    total = float(moved.sum())

    def kept(size: tuple[int, int]) -> NDArray[np.uint8]:
        """1 where a value keeps its sign, 0 where it changes."""
        patterns, length = size
        octets = np.frombuffer(rng.bytes(patterns * math.ceil(length / 8)), dtype=np.uint8)
        return np.unpackbits(octets.reshape(patterns, -1), axis=1, count=length)

    def signed_sum(pattern: Any, axis: int) -> Any:
        return 2 * (pattern @ moved) - total

    tested = stats.monte_carlo_test(
        np.ones(len(moved)), kept, signed_sum, n_resamples=resamples, vectorized=True,
        batch=max(1, BATCH // len(moved)),
    )  # fmt: skip
    return float(tested.pvalue)
