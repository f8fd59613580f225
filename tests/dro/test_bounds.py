"""Bounds against a general convex solver, and what cannot be kept."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize

from tdro_lightning.dro.bounds import Bound, describe_changes, keep_bounds, spend_budget
from tdro_lightning.errors import ConfigError

MIX = {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05}


def solved(mixture: dict[str, float], bounds: list[Bound]) -> np.ndarray:
    """The same by sequential quadratic programming from several starts."""
    wanted = np.array(list(mixture.values()))
    rows = np.array([[name in bound.members for name in mixture] for bound in bounds], dtype=float)

    def divergence(p: np.ndarray) -> float:
        return float(np.sum(p * np.log(np.maximum(p, 1e-300) / wanted)))

    constraints = [
        LinearConstraint(np.ones((1, len(wanted))), 1, 1),
        LinearConstraint(rows, [b.least for b in bounds], [b.most for b in bounds]),
    ]
    found = minimize(
        divergence,
        np.full(len(wanted), 1 / len(wanted)),
        jac=lambda p: np.log(np.maximum(p, 1e-300) / wanted) + 1,
        bounds=[(1e-12, 1)] * len(wanted),
        constraints=constraints,
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    return np.asarray(found.x)


def test_without_bounds_nothing_changes() -> None:
    assert keep_bounds(MIX, []) == pytest.approx(MIX, abs=1e-15)
    assert keep_bounds(MIX, [Bound("all", tuple(MIX), 1.0, 1.0)]) == pytest.approx(MIX, abs=1e-12)


def test_what_is_left_free_keeps_its_proportions() -> None:
    kept = keep_bounds(MIX, [Bound("a", ("a",), most=0.2)])
    assert kept["a"] == pytest.approx(0.2, abs=1e-12)
    assert kept["b"] / kept["c"] == pytest.approx(2.0, abs=1e-9)
    assert kept["c"] / kept["d"] == pytest.approx(3.0, abs=1e-9)
    assert math.fsum(kept.values()) == pytest.approx(1.0, abs=1e-12)


def test_a_group_that_overlaps_another() -> None:
    bounds = [Bound("x", ("a", "b"), most=0.5), Bound("y", ("b", "c"), least=0.6)]
    kept = keep_bounds(MIX, bounds)
    assert kept["a"] + kept["b"] <= 0.5 + 1e-9
    assert kept["b"] + kept["c"] >= 0.6 - 1e-9
    np.testing.assert_allclose(list(kept.values()), solved(MIX, bounds), atol=1e-5)


def test_a_domain_that_the_rule_left_out_comes_back_where_it_must() -> None:
    mixture = {"a": 0.5, "b": 0.5, "c": 0.0, "d": 0.0}
    kept = keep_bounds(mixture, [Bound("keep c", ("c",), least=0.1)])
    assert kept["c"] == pytest.approx(1 / 3, abs=1e-9)  # as much as the least of the others
    assert kept["d"] == 0.0
    more = keep_bounds(mixture, [Bound("keep c", ("c",), least=0.5)])
    assert more == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.5, "d": 0.0}, abs=1e-9)


def test_contradictions_name_the_bounds_that_make_them() -> None:
    bounds = [
        Bound("harmless", ("d",), most=0.9),
        Bound("transfer.least.a=0.7", ("a",), least=0.7),
        Bound("transfer.least.b=0.5", ("b",), least=0.5),
    ]
    with pytest.raises(
        ConfigError,
        match=r"^no mixture keeps transfer\.least\.a=0\.7 and transfer\.least\.b=0\.5; change one",
    ):
        keep_bounds(MIX, bounds)
    gone = {"a": 1.0, "b": 0.0, "c": 0.0}
    with pytest.raises(ConfigError, match="no mixture keeps group; change one"):
        keep_bounds(gone, [Bound("group", ("b", "c"), least=0.2)])


def test_changes_are_said_of_those_bounds_alone_that_changed_something() -> None:
    bounds = [Bound("most of a", ("a",), most=0.2), Bound("most of d", ("d",), most=0.9)]
    assert describe_changes(MIX, keep_bounds(MIX, bounds), bounds) == [
        "most of a: 0.500 became 0.200"
    ]


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, float], list[Bound]]:
    count = draw(st.integers(2, 7))
    names = [f"domain{i}" for i in range(count)]
    parts = draw(st.lists(st.floats(0.01, 1.0), min_size=count, max_size=count))
    mixture = {name: part / math.fsum(parts) for name, part in zip(names, parts, strict=True)}
    bounds = []
    for number in range(draw(st.integers(1, 4))):
        members = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        least = draw(st.floats(0, 0.6))
        bounds.append(
            Bound(f"bound {number}", tuple(members), least, draw(st.floats(least + 0.05, 1.0)))
        )
    return mixture, bounds


HALTING = (  # alternating projections stand still here for a while before they arrive
    dict(zip("abcde", (0.25, 0.125, 0.25, 0.25, 0.125), strict=True)),
    [
        Bound("b", ("b",), least=0.296875),
        Bound("a b c d", ("a", "b", "c", "d"), most=0.8125),
        Bound("b e", ("b", "e"), least=0.5),
    ],
)


@given(cases())
@example(HALTING)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_nearest_mixture_that_keeps_them_all(
    case: tuple[dict[str, float], list[Bound]],
) -> None:
    mixture, bounds = case
    try:
        kept = keep_bounds(mixture, bounds)
    except ConfigError:
        assume(False)
        raise
    assert min(kept.values()) >= 0
    assert math.fsum(kept.values()) == pytest.approx(1, abs=1e-12)
    for bound in bounds:
        total = math.fsum(kept[name] for name in bound.members)
        assert bound.least - 1e-6 <= total <= bound.most + 1e-6
    wanted = np.array(list(mixture.values()))

    def divergence(p: np.ndarray) -> float:
        return float(np.sum(p * np.log(np.maximum(p, 1e-300) / wanted)))

    other = solved(mixture, bounds)
    for (
        bound
    ) in bounds:  # where the general solver has found no mixture, there is nothing to compare
        total = sum(
            value for name, value in zip(mixture, other, strict=True) if name in bound.members
        )
        assume(bound.least - 1e-7 <= total <= bound.most + 1e-7)
    assert divergence(np.array(list(kept.values()))) <= divergence(other) + 1e-5


@st.composite
def budgets(draw: st.DrawFn) -> tuple[dict[str, float], dict[str, int], int]:
    """A mixture, sizes, and a budget of rows."""
    parts = draw(st.lists(st.floats(1e-3, 1.0) | st.just(0.0), min_size=1, max_size=8))
    parts[0] = parts[0] or 1.0
    names = [f"d{i}" for i in range(len(parts))]
    sizes = [draw(st.integers(1, 10**6)) for _ in names]
    probability = {n: part / math.fsum(parts) for n, part in zip(names, parts, strict=True)}
    return probability, dict(zip(names, sizes, strict=True)), draw(st.integers(1, 10**6))


@given(budgets())
def test_a_budget_is_spent_in_proportion_and_whole(
    case: tuple[dict[str, float], dict[str, int], int],
) -> None:
    probability, sizes, budget = case
    present = [name for name in sizes if probability[name]]
    try:
        rows = spend_budget(probability, sizes, budget)
    except ConfigError as error:
        assert f"transfer.budget={budget} leaves no row" in str(error)  # noqa: PT017
        assert min(probability[n] for n in present) * budget < 1
        return
    assert sum(rows[n] for n in present) == min(budget, sum(sizes[n] for n in present))
    assert all(1 <= rows[n] <= sizes[n] for n in sizes)
    assert all(rows[n] == sizes[n] for n in sizes if not probability[n])
    free = [n for n in present if rows[n] < sizes[n]]
    level = max((rows[n] - 1) / probability[n] for n in free) if free else 0.0
    for name in free:  # as many rows for each part of probability, but for the rounding
        assert (rows[name] + 1) / probability[name] >= level * (1 - 1e-9)
    for name in set(present) - set(free):  # a whole file is used where its part is larger
        assert not free or (sizes[name] - 1) / probability[name] <= min(
            (rows[n] + 1) / probability[n] for n in free
        ) * (1 + 1e-9)
