"""Mixtures by size, by hand and within bounds, as a user asks for them."""

import json
import re
from pathlib import Path

import pytest

from tests.command import assert_one_message
from tests.fixtures.commands import Command

GIVEN = (
    "--config-dir=conf", "+experiment=finetune_uniform", "domains=made", "model.path=model",
    "model.lora=null", "data.batch_size=4", "data.query_tokens=40", "data.passage_tokens=16",
    "data.workers=0", "trainer.steps=3", "trainer.precision=32-true", "logger.wandb=disabled",
    "run_dir=run", "++domains.rows={easy: 5, middle: 15, hard: 40}",
)  # fmt: skip


def mixture(folder: Path) -> dict[str, float]:
    probability = json.loads((folder / "run/mixture.json").read_text())["domain_weights"]
    assert sum(probability.values()) == pytest.approx(1, abs=1e-9)
    return probability


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("transfer.rule=proportional",), {"easy": 5 / 60, "middle": 15 / 60, "hard": 40 / 60}),
        (("transfer.rule=cap", "transfer.cap=10"), {"easy": 0.2, "middle": 0.4, "hard": 0.4}),
        (
            ("transfer.rule=reweight", "transfer.given={easy: 3, middle: 0, hard: 1}"),
            {"easy": 0.75, "middle": 0.0, "hard": 0.25},
        ),
        (
            ("transfer.rule=top_share", "transfer.given={easy: 3, middle: 0, hard: 1}"),
            {"easy": 0.5, "middle": 0.0, "hard": 0.5},
        ),
    ],
)
def test_rules_by_size_and_weights_by_hand(
    command: Command, folder: Path, options: tuple[str, ...], expected: dict[str, float]
) -> None:
    ended = command(*options)
    assert ended.code == 0, ended.err
    assert mixture(folder) == pytest.approx(expected, abs=1e-12)
    assert "bounds" not in ended.out


def test_bounds_change_the_mixture_and_say_so(command: Command, folder: Path) -> None:
    ended = command(
        "transfer.rule=proportional", "transfer.most={hard: 0.5}", "transfer.drop=[easy]"
    )
    assert ended.code == 0, ended.err
    assert mixture(folder) == pytest.approx({"easy": 0.0, "middle": 0.5, "hard": 0.5}, abs=1e-9)
    changes = [
        "transfer.drop=easy: 0.083 became 0.000",
        "transfer.most.hard=0.5: 0.667 became 0.500",
    ]
    for change in changes:
        assert change in ended.out
    lineage = json.loads((folder / "run/mixture.json").read_text())["lineage"]
    assert lineage["changes"] == changes


def test_a_group_and_passes_are_bounded_and_a_domain_is_kept(
    command: Command, folder: Path
) -> None:
    """Twelve rows are drawn: one pass over `easy` is 5 of them."""
    ended = command(
        "transfer.rule=reweight", "transfer.given={easy: 1, middle: 1, hard: 0}",
        "transfer.most_epochs=0.6", "transfer.keep=[hard]",
        "transfer.least={language/English: 1}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = mixture(folder)
    assert found["easy"] == pytest.approx(0.25, abs=1e-9)
    assert found["middle"] == pytest.approx(found["hard"], abs=1e-9)
    assert "transfer.keep=hard: the rule leaves it out, and it is kept" in ended.out


def test_a_small_domain_has_smaller_batches_or_is_left_out(command: Command, folder: Path) -> None:
    ended = command("data.batch_size=12", "transfer.rule=uniform")
    assert ended.code == 0, ended.err
    assert "easy: it has 5 rows, fewer than a batch; its batches are smaller" in ended.out
    usage = json.loads((folder / "run/data_usage.json").read_text())
    batches = [
        usage["easy"]["drawn"] / 5,
        usage["middle"]["drawn"] / 12,
        usage["hard"]["drawn"] / 12,
    ]
    assert sum(batches) == 3
    assert all(count == int(count) for count in batches)
    ended = command("data.batch_size=12", "data.small_domains=leave_out", "run_dir=run")
    assert ended.code == 0, ended.err
    assert mixture(folder) == pytest.approx({"easy": 0.0, "middle": 0.5, "hard": 0.5}, abs=1e-9)
    assert "data.small_domains=leave_out of easy with 5 rows: 0.333 became 0.000" in ended.out


REFUSED = {
    "transfer.most: 'hrd' is no configured domain or group; did you mean hard?": [
        "transfer.most={hrd: 0.5}"
    ],
    "transfer.drop: 'language/English' is no configured domain": [
        "transfer.drop=[language/English]"
    ],
    "transfer.keep and transfer.drop both name hard": [
        "transfer.keep=[hard]", "transfer.drop=[hard]"
    ],
    "no mixture keeps transfer.least.hard=0.7 and transfer.least.easy=0.5": [
        "transfer.least={hard: 0.7, easy: 0.5}"
    ],
    "transfer.rule=reweight needs transfer.weights=PATH": ["transfer.rule=reweight"],
    "and not both": [
        "transfer.rule=reweight", "transfer.weights=w.json", "transfer.given={easy: 1}"
    ],
    "without a weight: ['hard']": [
        "transfer.rule=reweight", "transfer.given={easy: 1, middle: 0}"
    ],
    "transfer.given must hold a weight above 0": [
        "transfer.rule=reweight", "transfer.given={easy: 0, middle: 0, hard: 0}"
    ],
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused(command: Command, message: str) -> None:
    ended = command(*REFUSED[message])
    assert ended.code == 2, ended.err
    assert_one_message(ended, re.escape(message))
