"""Warnings of vectors that lose their terms in training, or keep nearly all."""

from typing import Any

import pytest

from tdro_lightning.console.output import collect_warnings
from tdro_lightning.losses.sparsity import Sparsity
from tdro_lightning.losses.term_watch import TermWatch

SPARSITY = Sparsity("flops", queries=0.05, passages=0.04, ramp_steps=30)
VOCABULARY = 1000


def look(watch: TermWatch, queries: list[float], start: int = 0, passages: float = 50.0) -> None:
    for step, terms in enumerate(queries, start=start):
        logged = {"sparsity/terms/queries": terms, "sparsity/terms/passages": passages}
        watch.look_at(logged, VOCABULARY, step)


@pytest.mark.parametrize(
    ("queries", "count"),
    [
        ([0.4] * 19, 0),
        ([0.4] * 20, 1),
        ([0.0] * 200, 1),  # once
        ([1.0] * 50, 0),
        (([0.0] * 19 + [40.0]) * 5, 0),  # not in a row
        ([0.0] * 30 + [40.0], 0),  # withdrawn
        ([0.0] * 30 + [40.0] + [0.0] * 20, 1),
        ([1000.0] * 49, 0),  # 30 of them while the factors rise
        ([1000.0] * 50, 1),
        ([901.0] * 50, 1),
        ([900.0] * 50, 0),
        ([1000.0] * 40 + [300.0] * 20, 0),
        ([1000.0] * 60 + [300.0], 0),
    ],
)
def test_steps_in_a_row_are_counted(queries: list[float], count: int) -> None:
    with collect_warnings() as found:
        look(TermWatch(SPARSITY), queries)
    assert len(found) == count


def test_the_warning_names_side_step_and_factor() -> None:
    with collect_warnings() as found:
        look(TermWatch(SPARSITY), [0.25] * 20, passages=0.5)
        look(TermWatch(SPARSITY), [950.0] * 60)
    assert found == [
        "queries had 0.2 of 1000 terms on average at step 20, and fewer than 1 for 20 steps: "
        "vectors without terms find nothing; module.sparsity.queries=0.05 may be too high, or "
        "optimiser.lr",
        "passages had 0.5 of 1000 terms on average at step 20, and fewer than 1 for 20 steps: "
        "vectors without terms find nothing; module.sparsity.passages=0.04 may be too high, or "
        "optimiser.lr",
        "queries had 950.0 of 1000 terms on average at step 50, and more than 90% for 20 steps: "
        "such vectors are not sparse, and their search is slow; module.sparsity.queries=0.05 may "
        "be too low",
    ]


def test_a_resumed_training_continues_to_count_and_keeps_its_warnings() -> None:
    checkpoint: dict[str, Any] = {}
    with collect_warnings() as found:
        first = TermWatch(SPARSITY)
        look(first, [0.0] * 12)
        first.save(checkpoint)
    assert found == []
    with collect_warnings() as found:
        second = TermWatch(SPARSITY)
        second.load(checkpoint)
        look(second, [0.0] * 8, start=12)
        second.save(checkpoint)
    assert len(found) == 1
    with collect_warnings() as again:
        third = TermWatch(SPARSITY)
        third.load(checkpoint)
        assert again == found
        look(third, [20.0], start=20)
    assert again == []
    TermWatch(SPARSITY).load({})  # of an earlier version


def test_without_a_regulariser_nothing_is_counted() -> None:
    watch = TermWatch(None)
    watch.look_at({}, VOCABULARY, 0)
    assert watch.steps == {}
