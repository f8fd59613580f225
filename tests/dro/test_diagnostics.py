import math

import pytest
import torch

from tdro_lightning.console.output import collect_warnings, note_warning
from tdro_lightning.dro.diagnostics import Watches, by_domain, concentration


def test_uniform_weights_count_every_domain() -> None:
    got = concentration(torch.full((25,), 0.04, dtype=torch.float64))
    assert got["entropy"] == pytest.approx(math.log(25))
    assert got["effective_domains"] == pytest.approx(25)
    assert got["max_over_min"] == pytest.approx(1)


def test_unequal_weights_by_hand() -> None:
    got = concentration(torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))
    assert got["entropy"] == pytest.approx(1.5 * math.log(2))
    assert got["effective_domains"] == pytest.approx(2**1.5)
    assert got["max_over_min"] == pytest.approx(2)


def test_values_by_domain_leave_out_the_absent() -> None:
    curves = {"loss": torch.tensor([1.0, math.nan]), "weight": torch.tensor([0.5, 0.25])}
    assert by_domain(curves, ["a", "b"]) == {"loss/a": 1.0, "weight/a": 0.5, "weight/b": 0.25}


def warned(losses: list[float], candidates: int = 24) -> list[str]:
    watches = Watches({"optimiser.lr": 0.01})
    with collect_warnings() as found:
        for step, loss in enumerate(losses):
            watches.look_at_loss([loss], candidates, step)
    return found


CHANCE = math.log(24)


@pytest.mark.parametrize(
    ("losses", "count"),
    [
        ([CHANCE] * 19, 0),
        ([CHANCE] * 20, 1),
        ([CHANCE] * 500, 1),  # once
        ([CHANCE * 1.019] * 10 + [CHANCE * 0.981] * 10, 1),
        ([CHANCE * 1.021] * 100, 0),
        ([CHANCE * 0.979] * 100, 0),
        (([CHANCE] * 19 + [CHANCE * 0.8]) * 5, 0),  # not in a row
        ([CHANCE * (1.06 - 0.006 * i) for i in range(40)], 0),  # passes by, and so slowly
        ([CHANCE * (1 + 0.07 * (-1) ** i) for i in range(20)], 1),
        ([CHANCE] * 20 + [CHANCE * 0.95] * 40, 1),
        ([CHANCE] * 30 + [CHANCE * 0.8] * 30, 0),  # it has learned after all
        ([CHANCE] * 30 + [CHANCE * 1.5] * 30, 1),
        ([CHANCE] * 30 + [CHANCE * 0.8] * 30 + [CHANCE] * 30, 1),  # and has collapsed later
        ([0.0] * 100, 0),
    ],
)
def test_a_loss_that_stays_at_chance_is_warned_of_once(losses: list[float], count: int) -> None:
    assert len(warned(losses)) == count


def test_the_demo_that_has_collapsed_is_warned_of() -> None:
    """Its last 20 losses where it had 60 steps: nDCG@10 2.0, and 2.2 untrained."""
    losses = "4.694 5.196 4.779 4.931 4.722 4.835 4.725 4.982 4.997 4.860 5.174 4.777 4.814 4.823"
    losses += " 4.930 4.736 4.733 4.737 4.766 4.732"
    assert len(warned([12.0, *map(float, losses.split())], candidates=128)) == 1


def test_what_is_withdrawn_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert warned([CHANCE] * 30 + [1.0] * 30) == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert warned([CHANCE] * 3, candidates=1) == []  # nothing to choose from, and no loss


def test_the_warning_names_step_chance_and_causes() -> None:
    (text,) = warned([1.0] * 3 + [CHANCE] * 20)
    assert "2% of ln(24) = 3.178 for 20 steps, up to step 23" in text
    assert "learning rate" in text
    assert "optimiser.lr=0.01" in text


def test_the_mean_of_the_domains_counts() -> None:
    watches = Watches({})
    with collect_warnings() as found:
        for step in range(20):
            watches.look_at_loss([math.log(8) - 0.5, math.log(8) + 0.5], 8, step)
    assert len(found) == 1


def test_a_resumed_run_counts_on_and_keeps_its_warning() -> None:
    first, second, third = (Watches({}) for _ in range(3))
    checkpoint: dict[str, object] = {}
    for step in range(12):
        first.look_at_loss([CHANCE], 24, step)
    first.save(checkpoint)
    second.load(checkpoint)
    with collect_warnings() as found:
        for step in range(12, 20):
            assert found == []
            second.look_at_loss([CHANCE], 24, step)
    second.look_at_loss([0.1], 24, 20)
    second.save(checkpoint)
    with collect_warnings() as again:
        third.load(checkpoint)
        for step in range(21, 60):
            third.look_at_loss([CHANCE], 24, step)
    assert len(found) == 1
    assert again == found
    Watches({}).load({})  # an earlier version's checkpoint


def test_each_run_has_its_own_warnings_once() -> None:
    with collect_warnings() as chain:
        note_warning("of the chain")
        with collect_warnings() as step:
            note_warning("of the step")
            note_warning("of the step")
        note_warning("of the chain again")
    note_warning("of no run")
    assert (chain, step) == (["of the chain", "of the chain again"], ["of the step"])
