"""Bounds on a mixture: domains and groups of domains that get a least or a most probability.

The mixture that keeps them is the nearest one in relative entropy to that of the rule: what bounds
leave free keeps its proportions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog, minimize

from tdro_lightning.errors import ConfigError

TOLERANCE = 1e-12
MOST_ROUNDS = 100_000
MOST_FACTOR = 700.0  # logarithm; exp of more is infinite


@dataclass(frozen=True)
class Bound:
    """The least and the most probability of some domains together.

    Args:
        label: what asks for it, for messages: a configuration key and its value.
        members: names of the domains.
        least: of the sum of their probabilities.
        most: of that sum.
    """

    label: str
    members: tuple[str, ...]
    least: float = 0.0
    most: float = 1.0


def keep_bounds(
    probability: Mapping[str, float], bounds: Sequence[Bound], kept: Sequence[str] = ()
) -> dict[str, float]:
    """The probabilities nearest to those given, in relative entropy, that keep all bounds.

    A domain of probability 0 stays at 0, unless it is among those kept or a bound asks for it by
    itself: then it counts as the least probable of the others.

    Args:
        probability: of each domain, sum 1.
        bounds: in any order.
        kept: names of domains that no rule leaves out.

    Raises:
        ConfigError: no mixture keeps them all; names some that contradict one another.
    """
    names = list(probability)
    start = np.array([probability[name] for name in names])
    asked = {bound.members[0] for bound in bounds if bound.least > 0 and len(bound.members) == 1}
    back = np.array([name in asked or name in kept for name in names]) & (start == 0)
    if back.any():
        start[back] = start[start > 0].min()
        start /= start.sum()
    if not bounds:
        return dict(zip(names, start.tolist(), strict=True))
    groups = np.array([[name in bound.members for name in names] for bound in bounds], dtype=bool)
    limits = np.array([(bound.least, bound.most) for bound in bounds])
    if contradiction := _contradiction(start > 0, groups, limits):
        labels = " and ".join(bounds[i].label for i in contradiction)
        raise ConfigError(f"no mixture keeps {labels}; change one of them")
    return dict(zip(names, _nearest(start, groups, limits).tolist(), strict=True))


def describe_changes(
    before: Mapping[str, float], after: Mapping[str, float], bounds: Sequence[Bound]
) -> list[str]:
    """What the bounds have changed, a line for each that the mixture before did not keep."""
    lines = []
    for bound in bounds:
        was, now = (math.fsum(mix[name] for name in bound.members) for mix in (before, after))
        if not bound.least - TOLERANCE <= was <= bound.most + TOLERANCE:
            lines.append(f"{bound.label}: {was:.3f} became {now:.3f}")
    return lines


def spend_budget(
    probability: Mapping[str, float], sizes: Mapping[str, int], budget: int
) -> dict[str, int]:
    """Rows of each domain that a budget of different rows allows, in proportion to the mixture.

    A domain has no more rows than its file; what it cannot take goes to the others. Where all
    files together have no more than the budget, all rows are used.

    Args:
        probability: of each domain, sum 1; of one with probability 0 all rows are kept.
        sizes: rows of each domain's file.
        budget: rows in all.

    Raises:
        ConfigError: so small that a domain of the mixture has no row.
    """
    rows, left = dict(sizes), float(budget)
    present = [name for name in probability if probability[name] > 0]
    present.sort(key=lambda name: sizes[name] / probability[name])
    shares: dict[str, float] = {}
    for place, name in enumerate(present):
        rest = math.fsum(probability[other] for other in present[place:])
        shares[name] = min(float(sizes[name]), left * probability[name] / rest)
        left -= shares[name]
    rows |= {name: math.floor(share) for name, share in shares.items()}
    missing = min(budget, sum(sizes[name] for name in present)) - sum(
        rows[name] for name in present
    )
    fractions = sorted(present, key=lambda name: (rows[name] - shares[name], name))
    for name in fractions[:missing]:
        rows[name] += 1
    for name in present:
        if not rows[name]:
            raise ConfigError(
                f"transfer.budget={budget} leaves no row of {name}, whose probability is "
                f"{probability[name]:.3g}; raise it, or drop the domain: transfer.drop=[{name}]"
            )
    return rows


def _nearest(
    start: NDArray[np.float64], groups: NDArray[np.bool_], limits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The nearest point [K] that keeps the bounds, found by the dual problem.

    The nearest point in relative entropy is the start with the members of each bound scaled by a
    factor (Csiszar 1975, I-divergence geometry). The logarithms of the factors, one for each side
    of each bound, maximise a concave function without other constraints than their sign.

    Args:
        start: [K] probabilities, sum 1.
        groups: [J, K] whether a domain is a member of a bound.
        limits: [J, 2] least and most of each bound, which can be kept together.
    """
    least, most = limits.T
    point = np.where(groups[most <= 0].any(axis=0), 0.0, start)  # their factors would be infinite
    point = np.where((~groups[least >= 1]).any(axis=0), 0.0, point)
    signed = np.concatenate([groups, groups]) * np.repeat([1.0, -1.0], len(groups))[:, None]
    targets = np.concatenate([least, -most])

    def scaled(factors: NDArray[np.float64]) -> NDArray[np.float64]:
        exponents = factors @ signed
        parts = point * np.exp(exponents - exponents[point > 0].max())
        return np.asarray(parts / parts.sum())

    def dual(factors: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        exponents = factors @ signed
        top = exponents[point > 0].max()
        value = top + math.log((point * np.exp(exponents - top)).sum()) - factors @ targets
        return float(value), signed @ scaled(factors) - targets

    found = minimize(
        dual,
        np.zeros(len(targets)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, MOST_FACTOR)] * len(targets),
        options={"maxiter": MOST_ROUNDS, "maxfun": MOST_ROUNDS, "ftol": 0.0, "gtol": 1e-12},
    )
    return scaled(found.x)


def _contradiction(
    present: NDArray[np.bool_], groups: NDArray[np.bool_], limits: NDArray[np.float64]
) -> list[int]:
    """Indices of bounds that contradict one another, which leaving out any of them resolves.

    They are none where all can be kept.

    Args:
        present: [K] whether a domain may have a probability above 0.
        groups: [J, K] whether a domain is a member of a bound.
        limits: [J, 2] least and most of each bound.
    """

    def fails(chosen: list[int]) -> bool:
        rows = groups[chosen].astype(float)
        least, most = limits[chosen].T
        found = linprog(
            np.zeros(len(present)),
            A_ub=np.concatenate([rows, -rows]),
            b_ub=np.concatenate([most, -least]),
            A_eq=np.ones((1, len(present))),
            b_eq=[1.0],
            bounds=[(0.0, 1.0 if there else 0.0) for there in present],
        )
        return found.status == 2

    chosen = list(range(len(groups)))
    if not fails(chosen):
        return []
    for bound in range(len(groups)):
        rest = [other for other in chosen if other != bound]
        if rest and fails(rest):
            chosen = rest
    return chosen
