"""Mixture rules that look at the sizes of the domains, against their formulas."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdro_lightning.data.samplers import HomogeneousBatches
from tdro_lightning.dro.transfer import RULES, Settings, rule_title, transfer
from tdro_lightning.errors import ConfigError

sizes_of_any_kind = st.lists(st.integers(1, 10**7), min_size=1, max_size=30).map(
    lambda sizes: {f"d{i}": rows for i, rows in enumerate(sizes)}
)


def by_size(name: str, sizes: dict[str, int], **settings: float) -> dict[str, float]:
    mixture = transfer(name, sizes, {}, Settings(**settings))  # type: ignore[arg-type]
    assert mixture.loss_scale == dict.fromkeys(sizes, 1.0)
    assert list(mixture.probability) == list(sizes)
    assert min(mixture.probability.values()) > 0
    assert math.fsum(mixture.probability.values()) == pytest.approx(1, abs=1e-12)
    ordered = sorted(sizes, key=lambda name: sizes[name])
    for smaller, larger in itertools.pairwise(ordered):  # no smaller domain is drawn more
        assert mixture.probability[smaller] <= mixture.probability[larger] * (1 + 1e-12)
    return mixture.probability


def shares(parts: list[float]) -> np.ndarray:
    return np.array(parts) / np.sum(parts)


@given(sizes_of_any_kind, st.floats(0, 1), st.integers(1, 10**7))
@settings(deadline=None)
def test_rules_by_size_are_their_formulas(sizes: dict[str, int], alpha: float, cap: int) -> None:
    rows = np.array(list(sizes.values()), dtype=np.float64)
    uniform, proportional = np.full(len(rows), 1 / len(rows)), rows / rows.sum()
    for name, changes, expected in (
        ("uniform", {}, uniform),
        ("proportional", {}, proportional),
        ("temperature", {"alpha": alpha}, shares(rows**alpha)),
        ("temperature", {"alpha": 0.0}, uniform),
        ("temperature", {"alpha": 1.0}, proportional),
        ("cap", {"cap": cap}, shares(np.minimum(rows, cap))),
        ("cap", {"cap": int(rows.max())}, proportional),
        ("cap", {"cap": 1}, uniform),
    ):
        found = by_size(name, sizes, **changes)
        np.testing.assert_allclose(list(found.values()), expected, rtol=1e-12, err_msg=name)


@given(sizes_of_any_kind, st.floats(0.1, 20), st.integers(1, 10**8))
@settings(deadline=None)
def test_unimax_fills_up_to_one_level(sizes: dict[str, int], epochs: float, drawn: int) -> None:
    """Independently: every domain gets the same level, or its limit; bisection finds the level."""
    found = np.array(list(by_size("unimax", sizes, epochs=epochs, rows_drawn=drawn).values()))
    limits = np.array(list(sizes.values())) * epochs
    low, high = 0.0, float(max(limits.max(), drawn))
    for _ in range(200):
        level = (low + high) / 2
        low, high = (low, level) if np.minimum(level, limits).sum() > drawn else (level, high)
    np.testing.assert_allclose(found, shares(np.minimum(high, limits)), rtol=1e-9)
    if limits.sum() >= drawn:
        assert (found * drawn <= limits * (1 + 1e-9)).all()


def test_unimax_of_the_papers_kind() -> None:
    """Three small languages at their limit of four passes, two share what is left alike."""
    sizes = {"a": 10, "b": 20, "c": 50, "d": 1000, "e": 5000}
    found = by_size("unimax", sizes, epochs=4.0, rows_drawn=2000)
    rows = {name: p * 2000 for name, p in found.items()}
    assert rows == pytest.approx({"a": 40, "b": 80, "c": 200, "d": 840, "e": 840})


@pytest.mark.parametrize("name", ["proportional", "temperature", "cap", "unimax"])
def test_sizes_that_nobody_knows_are_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"needs the rows of b, c, which are not known"):
        transfer(name, {"a": 3, "b": None, "c": None}, {}, Settings(rows_drawn=10))


def test_titles_say_what_a_rule_was_told() -> None:
    settings = Settings(share=50, alpha=0.3, cap=200, epochs=2.5)
    titles = {name: rule_title(name, settings) for name in RULES}
    assert titles == {
        "uniform": "uniform",
        "proportional": "proportional",
        "temperature": "size^0.3",
        "cap": "cap 200",
        "unimax": "UniMax 2.5",
        "random_share": "random 50",
        "top_share": "top 50",
        "bottom_share": "bottom 50",
        "reweight": "reweighted",
        "loss_reweight": "loss reweighted",
    }


@pytest.mark.parametrize("name", ["proportional", "temperature", "unimax"])
def test_ten_thousand_draws_are_of_the_mixture(name: str) -> None:
    sizes = {"a": 50, "b": 400, "c": 3000, "d": 90_000}
    probability = by_size(name, sizes, rows_drawn=100_000)
    sampler = HomogeneousBatches(
        list(sizes),
        list(sizes.values()),
        10,
        10_000,
        seed=5,
        probability=list(probability.values()),
    )
    counts = np.array(sampler.rows_drawn()) / 10
    expected = np.array(list(probability.values())) * 10_000
    deviation = np.sqrt(expected * (1 - np.array(list(probability.values()))))
    assert (np.abs(counts - expected) < 5 * deviation + 1).all()
