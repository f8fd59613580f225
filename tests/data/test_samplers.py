import re
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdro_lightning.data.samplers import (
    BatchSampler,
    Draw,
    HeterogeneousBatches,
    HomogeneousBatches,
    PooledBatches,
    RowOrder,
)
from tdro_lightning.errors import ConfigError

ROWS = [7, 30, 5, 12]
NAMES = ["a", "b", "c", "d"]
P = [0.5, 0.0, 0.3, 0.2]


def heterogeneous(**changes: Any) -> HeterogeneousBatches:
    settings = {"names": NAMES, "rows": ROWS, "batch_size": 10, "steps": 24, "seed": 42}
    return HeterogeneousBatches(**{**settings, **changes})


def homogeneous(**changes: Any) -> HomogeneousBatches:
    settings = {"names": NAMES, "rows": ROWS, "batch_size": 4, "steps": 24, "seed": 42}
    return HomogeneousBatches(**{**settings, "probability": P, **changes})


both = pytest.mark.parametrize("sampler", [heterogeneous, homogeneous])
Make = Callable[..., BatchSampler]


def rows_by_domain(batches: list[list[Draw]]) -> dict[int, list[int]]:
    rows = defaultdict(list)
    for batch in batches:
        for draw in batch:
            rows[draw.domain].append(draw.row)
    return rows


def assert_every_row_before_any_twice(drawn: list[int], rows: int) -> None:
    for start in range(0, len(drawn), rows):
        part = drawn[start : start + rows]
        assert len(set(part)) == len(part)
        assert set(part) <= set(range(rows))


domain_rows = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(domain_rows, st.integers(0, 12), st.integers(1, 30), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_heterogeneous_counts_and_passes(
    rows: list[int], extra: int, steps: int, seed: int
) -> None:
    names = [f"domain {i}" for i in range(len(rows))]
    batch_size = len(rows) + extra
    sampler = HeterogeneousBatches(names, rows, batch_size, steps, seed)
    batches = list(sampler)
    totals = Counter[int]()
    for step, batch in enumerate(batches):
        counts = Counter(draw.domain for draw in batch)
        totals.update(counts)
        assert len(batch) == batch_size
        assert {draw.step for draw in batch} == {step}
        assert set(counts) == set(range(len(rows)))
        assert max(counts.values()) - min(counts.values()) <= 1
        assert max(totals.values()) - min(totals.values()) <= 1
        if (step + 1) % len(rows) == 0:
            assert set(totals.values()) == {(step + 1) * batch_size // len(rows)}
    assert sampler.rows_drawn() == [totals[domain] for domain in range(len(rows))]
    for domain, drawn in rows_by_domain(batches).items():
        assert_every_row_before_any_twice(drawn, rows[domain])


def test_the_remainder_rotates() -> None:
    # 10 queries on 4 domains: two each, and two of the domains a third in turn.
    larger = [
        [d for d, count in sorted(Counter(draw.domain for draw in batch).items()) if count == 3]
        for batch in heterogeneous(steps=4)
    ]
    assert larger == [[0, 1], [2, 3], [0, 1], [2, 3]]


def test_passes_are_shuffled_anew() -> None:
    drawn = rows_by_domain(list(heterogeneous(steps=40)))[0]
    passes = {tuple(drawn[start : start + 7]) for start in range(0, 98, 7)}
    assert len(passes) > 10
    assert all(sorted(order) == list(range(7)) for order in passes)


def test_batch_smaller_than_the_number_of_domains() -> None:
    message = "data.batch_size=3 must be at least the number of domains, 4"
    with pytest.raises(ConfigError, match=re.escape(message)):
        heterogeneous(batch_size=3)
    assert len(heterogeneous(batch_size=4).global_batch(0)) == 4


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 3)), min_size=1, max_size=5),
    st.integers(1, 6),
    st.integers(0, 2**32),
)
@settings(max_examples=80, deadline=None)
def test_homogeneous_batches_and_passes(
    domains: list[tuple[int, int]], batch_size: int, seed: int
) -> None:
    domains = [*domains, (12, 1)]
    shares = [share if rows >= batch_size else 0 for rows, share in domains]
    probability = [share / sum(shares) for share in shares]
    names, rows = [f"domain {i}" for i in range(len(domains))], [rows for rows, _ in domains]
    sampler = HomogeneousBatches(names, rows, batch_size, 40, seed, probability=probability)
    batches = list(sampler)
    for step, batch in enumerate(batches):
        assert len({draw.domain for draw in batch}) == 1
        assert len({draw.row for draw in batch}) == batch_size
        assert {draw.step for draw in batch} == {step}
        assert shares[batch[0].domain] > 0
    drawn = rows_by_domain(batches)
    for domain, order in drawn.items():
        assert_every_row_before_any_twice(order, rows[domain])
    assert sampler.rows_drawn() == [len(drawn[domain]) for domain in range(len(rows))]


@pytest.mark.parametrize("rows", [4, 5, 6, 7, 9])
def test_no_row_twice_in_a_batch_across_passes(rows: int) -> None:
    sampler = homogeneous(names=["a"], rows=[rows], probability=[1.0], steps=300)
    assert all(len({draw.row for draw in batch}) == 4 for batch in sampler)


def test_domain_frequencies_follow_the_probabilities() -> None:
    p = [0.5, 0.0, 0.3, 0.15, 0.05]
    sampler = homogeneous(
        names=list("abcde"), rows=[10] * 5, probability=p, batch_size=2, steps=4000, seed=1
    )
    counts = Counter(batch[0].domain for batch in sampler)
    chi_square = sum((counts[d] - 4000 * p[d]) ** 2 / (4000 * p[d]) for d in range(5) if p[d])
    assert counts[1] == 0
    assert chi_square < 16.27  # 3 degrees of freedom, p = 0.001
    assert sampler.rows_drawn() == [2 * counts[d] for d in range(5)]


@pytest.mark.parametrize("zeros", [{0}, {5}, {11}, {0, 1, 11}, set(range(11))])
def test_domains_of_probability_zero_are_never_drawn(zeros: set[int]) -> None:
    p = [0.0 if domain in zeros else 1 / (12 - len(zeros)) for domain in range(12)]
    # Too few rows for a batch do not matter where none is drawn.
    rows = [1 if domain in zeros else 4 for domain in range(12)]
    names = [f"d{domain}" for domain in range(12)]
    sampler = homogeneous(names=names, rows=rows, probability=p, steps=600)
    assert {batch[0].domain for batch in sampler} == set(range(12)) - zeros


def test_a_domain_smaller_than_a_batch_has_smaller_batches() -> None:
    """All its rows at each draw, no row twice, shared evenly by the processes."""
    shape = {"names": ["a", "b"], "rows": [5, 40], "probability": [0.5, 0.5], "steps": 60}
    whole = homogeneous(**shape, batch_size=8)
    sizes = {"a": Counter(), "b": Counter()}
    for batch in whole:
        assert len({draw.row for draw in batch}) == len(batch)
        sizes["ab"[batch[0].domain]][len(batch)] += 1
    assert set(sizes["a"]) == {5}
    assert set(sizes["b"]) == {8}
    assert whole.rows_drawn() == [5 * sizes["a"][5], 8 * sizes["b"][8]]
    ranks = [homogeneous(**shape, batch_size=8, rank=rank, world_size=2) for rank in (0, 1)]
    for step, (one, two) in enumerate(zip(*ranks, strict=True)):
        assert len(one) == len(two) == (2 if whole.domains[step] == 0 else 4)
        assert {(d.domain, d.row) for d in one}.isdisjoint((d.domain, d.row) for d in two)
    with pytest.raises(ConfigError, match=r"domain a has 1 rows for 2 processes; leave it out"):
        homogeneous(**shape | {"rows": [1, 40]}, batch_size=8, world_size=2)


@both
@pytest.mark.parametrize("start", [0, 1, 5, 13, 23, 24])
def test_a_later_start_continues_with_the_same_batches(sampler: Make, start: int) -> None:
    assert list(sampler(start=start)) == list(sampler())[start:]
    assert len(sampler(start=start)) == 24
    assert sampler(start=start).rows_drawn() == sampler().rows_drawn()


@both
def test_a_longer_run_begins_with_the_same_batches(sampler: Make) -> None:
    assert list(sampler(steps=100))[:24] == list(sampler())


@both
def test_steps_in_any_order(sampler: Make) -> None:
    expected = list(sampler())
    asked = sampler()
    for step in [23, 0, 12, 11, 12, 1, 23, 5]:
        assert asked.global_batch(step) == expected[step]
    assert list(asked) == list(asked) == expected


@both
def test_seed_and_names_decide(sampler: Make) -> None:
    assert list(sampler()) == list(sampler())
    assert list(sampler(seed=43)) != list(sampler())
    assert list(sampler(names=["a", "b", "C", "d"])) != list(sampler())


@both
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_global_batch(sampler: Make, world_size: int) -> None:
    whole = list(sampler(batch_size=4))
    ranks = [
        list(sampler(batch_size=4, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    for step, batch in enumerate(whole):
        parts = [rank[step] for rank in ranks]
        assert {len(part) for part in parts} == {4 // world_size}
        assert sorted(draw for part in parts for draw in part) == sorted(batch)
    assert sampler(batch_size=4, rank=world_size - 1, world_size=world_size).rows_drawn() == (
        sampler(batch_size=4).rows_drawn()
    )


def test_ranks_share_each_domain() -> None:
    for rank in range(2):
        for batch in heterogeneous(batch_size=16, rank=rank, world_size=2):
            assert Counter(draw.domain for draw in batch) == {0: 2, 1: 2, 2: 2, 3: 2}


@both
@pytest.mark.parametrize(("batch_size", "world_size"), [(5, 2), (4, 3), (0, 1), (-4, 2)])
def test_batch_that_the_processes_cannot_share(
    sampler: Make, batch_size: int, world_size: int
) -> None:
    message = f"data.batch_size={batch_size} must be a positive multiple of the {world_size} proc"
    with pytest.raises(ConfigError, match=re.escape(message)):
        sampler(batch_size=batch_size, world_size=world_size)


def test_base_class_leaves_the_batch_open() -> None:
    sampler = BatchSampler(NAMES, ROWS, 4, 2, 0)
    with pytest.raises(NotImplementedError):
        sampler.global_batch(0)
    with pytest.raises(NotImplementedError):
        sampler.rows_drawn()


@given(st.integers(1, 8), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20))))
@settings(max_examples=60, deadline=None)
def test_row_order_is_one_endless_sequence(rows: int, asked: list[tuple[int, int]]) -> None:
    whole = RowOrder(rows, 3, "a").take(0, 80)
    order = RowOrder(rows, 3, "a")
    for start, count in asked:
        np.testing.assert_array_equal(order.take(start, count), whole[start : start + count])


def test_a_domain_of_three_million_rows_beside_one_of_ten() -> None:
    """Each of 25 domains has its share of every batch, and its rows come uniformly."""
    rows = [3_000_000, 10, *[1000] * 23]
    batches = HeterogeneousBatches([f"d{i}" for i in range(25)], rows, 100, 200, seed=1)
    drawn = [draw for step in range(200) for draw in batches.global_batch(step)]
    large = np.array([draw.row for draw in drawn if draw.domain == 0])
    small = np.array([draw.row for draw in drawn if draw.domain == 1])
    assert len(large) == len(small) == 800
    assert len(set(large.tolist())) == 800
    assert np.bincount(small).tolist() == [80] * 10
    parts = np.bincount(large * 10 // rows[0], minlength=10)
    assert ((parts - 80) ** 2 / 80).sum() < 27.9  # chi-square with 9 degrees, p 0.001


def pooled(**changed: int) -> PooledBatches:
    given = {"names": ["a", "b", "c"], "rows": [7, 1, 22], "batch_size": 8, "steps": 30, "seed": 5}
    return PooledBatches(**(given | changed))


def test_pooled_batches_draw_every_row_once_before_any_twice() -> None:
    draws = [draw for batch in pooled() for draw in batch]
    assert len(draws) == 240
    for start in range(0, 240, 30):
        seen = {(draw.domain, draw.row) for draw in draws[start : start + 30]}
        assert seen == {(d, r) for d, rows in enumerate((7, 1, 22)) for r in range(rows)}
    for steps in (1, 4, 30):
        counts = [sum(d.domain == i for d in draws[: 8 * steps]) for i in range(3)]
        assert pooled().rows_drawn(steps) == counts
    assert pooled().rows_drawn() == [56, 8, 176]


def test_pooled_batches_are_the_same_after_a_resume_and_with_more_processes() -> None:
    whole = list(pooled())
    assert list(pooled(start=11)) == whole[11:]
    halves = zip(pooled(rank=0, world_size=2), pooled(rank=1, world_size=2), strict=True)
    for batch, (first, second) in zip(whole, halves, strict=True):
        assert sorted([*first, *second]) == sorted(batch)
    assert list(pooled(seed=6)) != whole
