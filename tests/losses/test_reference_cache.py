"""Losses of a reference that are kept: their keys, and what is computed anew."""

import hashlib
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tdro_lightning.distributed.collectives import largest
from tdro_lightning.distributed.processes import rank
from tdro_lightning.losses.contrastive import hard_negative_losses
from tdro_lightning.losses.reference_cache import (
    ReferenceLosses,
    largest_loss,
    loss_fingerprint,
    row_keys,
)
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.tokens import Tokens
from tests.fixtures.evaluation import in_two_processes
from tests.processes import in_processes

ONE, OTHER = "1f" * 32, "2e" * 32
TEMPERATURE = 0.02  # at which a loss is 129 at most
Row = list[list[int]]  # a query, then its passages

TEXT = st.lists(st.integers(0, 2), min_size=1, max_size=3)
BATCHES = st.integers(1, 3).flatmap(
    lambda passages: st.lists(
        st.lists(TEXT, min_size=1 + passages, max_size=1 + passages), min_size=1, max_size=5
    )
)


def tokens(rows: list[Row]) -> tuple[Tokens, Tokens]:
    return Tokens.of([row[0] for row in rows]), Tokens.of([t for row in rows for t in row[1:]])


def keys(*rows: Row, fingerprint: str = ONE) -> list[bytes]:
    return row_keys(*tokens(list(rows)), fingerprint)


def made(count: int, start: int = 0) -> list[bytes]:
    return [hashlib.blake2b(bytes([n]), digest_size=16).digest() for n in range(start, count)]


@given(BATCHES, BATCHES)
def test_keys_are_equal_where_the_texts_are(one: list[Row], other: list[Row]) -> None:
    """Any token, boundary or order; whatever else is in the batch."""
    for ours, row in zip(keys(*one), one, strict=True):
        for theirs, second in zip(keys(*other), other, strict=True):
            assert (ours == theirs) == (row == second)


@given(BATCHES)
def test_keys_by_hand(rows: list[Row]) -> None:
    for key, row in zip(keys(*rows), rows, strict=True):
        numbers = [len(text) for text in row] + [token for text in row for token in text]
        digest = hashlib.blake2b(digest_size=16, key=bytes.fromhex(ONE))
        digest.update(struct.pack(f"<{len(numbers)}i", *numbers))
        assert key == digest.digest()


CHANGES = {
    "a token of the query": [[5, 7], [1, 2], [3], [4]],
    "a token of a negative": [[5, 6], [1, 2], [3], [9]],
    "a boundary between query and passage": [[5], [6, 1, 2], [3], [4]],
    "a boundary between passages": [[5, 6], [1], [2, 3], [4]],
    "the order of passages": [[5, 6], [1, 2], [4], [3]],
    "query and positive exchanged": [[1, 2], [5, 6], [3], [4]],
    "a passage less": [[5, 6], [1, 2], [3]],
    "a passage more": [[5, 6], [1, 2], [3], [4], [4]],
    "a large token": [[5, 6], [1, 2], [3], [4 + 2**30]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_gives_another_key(change: str) -> None:
    row = [[5, 6], [1, 2], [3], [4]]
    assert keys(row) != keys(CHANGES[change])
    assert keys(CHANGES[change]) == keys(CHANGES[change])


def test_another_fingerprint_gives_other_keys() -> None:
    row = [[5, 6], [1, 2]]
    assert keys(row) == keys(row, fingerprint=ONE) != keys(row, fingerprint=OTHER)


def test_the_reference_temperature_and_precision_are_in_the_fingerprint(
    load: Callable[..., Encoder],
) -> None:
    nudged = load("qwen2")
    with torch.no_grad():
        next(nudged.parameters())[0, 0] += 1e-3
    encoders = [load("qwen2"), nudged, load("llama"), load("qwen2", dtype="bfloat16")]
    settings = [(0.02, "32-true"), (0.002, "32-true"), (0.02, "bf16-mixed")]
    found = {loss_fingerprint(encoder, *given) for encoder in encoders for given in settings}
    assert len(found) == 12
    assert loss_fingerprint(load("qwen2", chunk_tokens=9), 0.02, "32-true") in found


@given(st.floats(0.001, 1), st.integers(2, 200), st.booleans())
def test_every_loss_of_unit_vectors_can_be(temperature: float, passages: int, half: bool) -> None:
    """Also the worst: the positive opposite the query, and all negatives equal to it."""
    query = torch.nn.functional.normalize(torch.linspace(-1, 1, 96), dim=0)
    found = query.expand(passages, -1).clone()
    found[0] *= -1
    dtype = torch.bfloat16 if half else torch.float32
    worst = hard_negative_losses(query[None].to(dtype), found[None].to(dtype), temperature)
    best = hard_negative_losses(-query[None].to(dtype), found[None].to(dtype), temperature)
    assert 0 <= best <= worst <= largest_loss(temperature)
    assert worst > 0.9 * 2 / temperature


def test_losses_of_other_vectors_have_no_bound(tmp_path: Path) -> None:
    """Products of sparse vectors may be hundreds; an infinite loss is never kept."""
    keys, losses = [bytes([i]) * 16 for i in range(3)], torch.tensor([900.0, 0.5, torch.inf])
    for unit, kept in ((True, [0.5]), (False, [900.0, 0.5])):
        folder = tmp_path / str(unit)
        ReferenceLosses(folder, ONE, 1.0, unit).add(keys, losses)
        found, missing = ReferenceLosses(folder, ONE, 1.0, unit).look_up(keys)
        assert found[~found.isnan()].tolist() == kept
        assert len(missing) == 3 - len(kept)


class Fresh:
    """A row's loss is a tenth of its query's first token; it keeps what it was asked for."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self.calls: list[list[int]] = []

    def __call__(self, chosen: Tensor) -> Tensor:
        self.calls.append(chosen.tolist())
        return torch.tensor([self.rows[i][0][0] / 10 for i in chosen.tolist()])


def test_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    rows = [[[n], [5], [6, 7]] for n in range(6)]
    fresh, cache = Fresh(rows), ReferenceLosses(tmp_path, ONE, TEMPERATURE)
    asked = [[1, 3], [0, 1, 2, 3, 5], [3, 5]]
    shares = []
    for numbers in asked:
        chosen = [rows[n] for n in numbers]
        fresh.rows = chosen
        losses, share = cache.get_or_compute(*tokens(chosen), fresh)
        assert losses.dtype == torch.float64
        assert torch.equal(losses, torch.tensor([n / 10 for n in numbers]).double())
        shares.append(share)
    assert fresh.calls == [[0, 1], [0, 2, 4]]
    assert shares == [0, 2 / 5, 1]
    assert len(ReferenceLosses(tmp_path, ONE, TEMPERATURE)) == 5


def test_a_loss_that_is_not_finite_is_handed_on_and_not_kept(tmp_path: Path) -> None:
    rows = [[[n], [5]] for n in range(3)]
    given = torch.tensor([1.0, math.nan, math.inf])
    losses, _ = ReferenceLosses(tmp_path, ONE, TEMPERATURE).get_or_compute(
        *tokens(rows), lambda chosen: given
    )
    torch.testing.assert_close(losses, given.double(), equal_nan=True)
    again = Fresh(rows)
    ReferenceLosses(tmp_path, ONE, TEMPERATURE).get_or_compute(*tokens(rows), again)
    assert again.calls == [[1, 2]]


STEPS, EACH = 60, 7


def write(number: int, folder: Path) -> None:
    """Steps of two processes of one number of rows; half of the keys are the other's too."""
    cache = ReferenceLosses(folder, ONE, TEMPERATURE)
    for step in range(STEPS):
        rows = [[[step, n], [number if n % 2 else 9]] for n in range(EACH)]
        cache.get_or_compute(*tokens(rows), lambda chosen, step=step: step + chosen / 16)
        ReferenceLosses(folder, ONE, TEMPERATURE)  # a run that starts while others write


def test_two_processes_may_write_at_once(tmp_path: Path, caplog) -> None:
    in_processes(2, write, tmp_path)
    cache = ReferenceLosses(tmp_path, ONE, TEMPERATURE)
    assert len(list(cache.folder.iterdir())) == 2
    assert not caplog.records
    for number in range(2):
        for step in range(STEPS):
            rows = [[[step, n], [number if n % 2 else 9]] for n in range(EACH)]
            losses, missing = cache.look_up(keys(*rows))
            assert len(missing) == 0
            assert losses.tolist() == [step + n / 16 for n in range(EACH)]


def together(folder: Path) -> None:
    """Three times five rows a rank, of which four of rank 0's are known at first."""
    rows = [[[10 * rank() + n], [5]] for n in range(5)]
    cache = ReferenceLosses(folder, ONE, TEMPERATURE)
    asked: list[tuple[list[int], int]] = []

    def fresh(chosen: Tensor) -> Tensor:
        asked.append((chosen.tolist(), largest(len(chosen))))
        return Fresh(rows)(chosen) + 100

    found = [
        cache.get_or_compute(*tokens(rows), fresh, together=flag) for flag in (True, True, False)
    ]
    torch.save((asked, found), folder / f"{rank()}.pt")


def test_a_collective_is_run_by_all_or_none(tmp_path: Path) -> None:
    rows = [[[n], [5]] for n in range(4)]
    ReferenceLosses(tmp_path, ONE, TEMPERATURE).get_or_compute(*tokens(rows), Fresh(rows))
    in_two_processes(together, tmp_path)
    expected = [[0, 0.1, 0.2, 0.3, 100.4], [101 + n / 10 for n in range(5)]]
    for number, order in enumerate([[4, 0, 1, 2, 3], [0, 1, 2, 3, 4]]):
        asked, found = torch.load(tmp_path / f"{number}.pt")
        assert asked == [(order, 5)]
        assert [share for _, share in found] == [0.4, 1, 1]
        for losses, _ in found:
            assert losses.tolist() == pytest.approx(expected[number], abs=1e-4)
