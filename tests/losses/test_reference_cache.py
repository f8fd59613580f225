import hashlib
import logging
import math
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tdro_lightning.distributed.collectives import largest
from tdro_lightning.distributed.processes import rank
from tdro_lightning.errors import ConfigError, ResourceError
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


@given(st.lists(st.floats(width=64) | st.floats(0, 129), max_size=9))
def test_losses_come_back_bit_for_bit(tmp_path_factory, values: list[float]) -> None:
    folder = tmp_path_factory.mktemp("cache")
    losses = torch.tensor(values, dtype=torch.float64)
    cache = ReferenceLosses(folder, ONE, TEMPERATURE)
    cache.add(made(len(values)), losses)
    possible = [n for n, value in enumerate(values) if 0 <= value <= 129]
    for known in (cache, ReferenceLosses(folder, ONE, TEMPERATURE)):
        found, missing = known.look_up(made(len(values)))
        assert len(known) == len(possible)
        assert missing.tolist() == [n for n in range(len(values)) if n not in possible]
        assert torch.equal(found[possible], losses[possible])
        assert found[missing].isnan().all()
    assert len(list(cache.folder.iterdir())) == bool(possible)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """The only file of a folder with six losses: 0, 1, ... 5."""
    cache = ReferenceLosses(tmp_path, ONE, TEMPERATURE)
    cache.add(made(6), torch.arange(6.0))
    (file,) = cache.folder.iterdir()
    return file


def assert_known(file: Path, numbers: list[int]) -> None:
    losses, missing = ReferenceLosses(file.parents[1], ONE, TEMPERATURE).look_up(made(6))
    assert missing.tolist() == [n for n in range(6) if n not in numbers]
    assert losses[numbers].tolist() == numbers


def assert_right_or_missing(file: Path) -> list[int]:
    """Numbers of the losses that are still found; none is another one."""
    cache = ReferenceLosses(file.parents[1], ONE, TEMPERATURE)
    losses, missing = cache.look_up(made(6))
    numbers = [n for n in range(6) if n not in missing.tolist()]
    assert losses[numbers].tolist() == numbers
    assert len(cache) == len(numbers)  # nor has one another's key
    return numbers


def test_no_damaged_byte_gives_another_loss(filled: Path, caplog) -> None:
    """Every byte that is not empty space: what is not found or not right is run again."""
    whole = filled.read_bytes()
    lost = warned = 0
    for place in [n for n, byte in enumerate(whole) if byte]:
        for change in (1, 128, 255):
            filled.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            caplog.clear()
            if len(assert_right_or_missing(filled)) < 6:
                lost += 1
                warned += any(record.levelno == logging.WARNING for record in caplog.records)
    assert lost > 100
    assert warned > 0.9 * lost


@pytest.mark.parametrize("n", range(6))
def test_a_damaged_loss_is_the_only_one_lost(filled: Path, n: int, caplog) -> None:
    content = filled.read_bytes()
    place = content.index(made(6)[n]) + 16  # the loss follows its key
    assert content[place : place + 3] == f"{n}.0".encode()
    filled.write_bytes(content[:place] + b"7" + content[place + 1 :])
    assert_known(filled, [k for k in range(6) if k != n])
    (message,) = caplog.messages
    assert message.startswith(f"{filled}: 1 losses that are damaged, or outside 0 to 129")


def test_a_file_cut_short_anywhere_gives_no_other_loss(filled: Path, caplog) -> None:
    whole = filled.read_bytes()
    for length in range(0, len(whole), 37):
        filled.write_bytes(whole[:length])
        caplog.clear()
        assert len(assert_right_or_missing(filled)) < 6
        assert f"{filled}: " in caplog.messages[0]
        assert "not used" in caplog.messages[0]


def test_a_file_cut_short_is_not_continued(filled: Path) -> None:
    filled.write_bytes(filled.read_bytes()[:5000])
    cache = ReferenceLosses(filled.parents[1], ONE, TEMPERATURE)
    cache.add(made(6), torch.arange(6.0))
    assert filled.stat().st_size == 5000
    assert_known(filled, list(range(6)))
    assert len(list(filled.parent.iterdir())) == 2


def test_a_file_of_an_earlier_version_is_not_used(filled: Path, caplog) -> None:
    """Such a file holds records of a key, a loss and the CRC-32 of both."""
    records = [struct.pack("<16sd", key, 9.0) for key in made(6)]
    old = b"".join(record + struct.pack("<I", zlib.crc32(record)) for record in records)
    (filled.parent / "rank0-1-aa.losses").write_bytes(old)
    assert_known(filled, list(range(6)))
    assert "of an earlier version, and not used (file is not a database)" in caplog.messages[0]


def test_a_file_put_back_as_it_was_gives_what_was_known_then(filled: Path) -> None:
    older = filled.read_bytes()
    cache = ReferenceLosses(filled.parents[1], ONE, TEMPERATURE)
    cache._own = filled
    cache.add(made(9), torch.arange(9.0))
    assert len(ReferenceLosses(filled.parents[1], ONE, TEMPERATURE)) == 9
    filled.write_bytes(older)
    assert_known(filled, list(range(6)))


def test_a_folder_that_cannot_be_written_to_is_said(filled: Path) -> None:
    cache = ReferenceLosses(filled.parents[1], ONE, TEMPERATURE)
    shutil.rmtree(filled.parent)
    with pytest.raises(ResourceError, match=r"\.losses: cannot be written \(unable to open"):
        cache.add(made(9), torch.arange(9.0))


@pytest.mark.parametrize("loss", [-1e-9, -3.0, 129.1, 1e9, math.inf, -math.inf, math.nan])
def test_what_no_loss_can_be_is_not_used(filled: Path, loss: float, caplog) -> None:
    """Of a wrong program, whose losses have valid checksums."""
    with closing(sqlite3.connect(filled)) as database, database:
        checksum = zlib.crc32(repr((made(6)[2], str(loss))).encode())
        change = "UPDATE losses SET loss = ?, checksum = ? WHERE key = ?"
        assert database.execute(change, (str(loss), checksum, made(6)[2])).rowcount == 1
    assert_known(filled, [0, 1, 3, 4, 5])
    message = (
        f"{filled}: 1 losses that are damaged, or outside 0 to 129, the largest at this "
        "temperature, are not used"
    )
    assert caplog.messages == [message]


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


@pytest.mark.parametrize(
    "content",
    [b"", b"no database at all, but a text of some length " * 9, bytes(1120), b"\xff" * 999],
)
def test_foreign_content_is_not_used(filled: Path, content: bytes, caplog) -> None:
    (filled.parent / "foreign.losses").write_bytes(content)
    (filled.parent / "foreign.txt").write_bytes(content)
    (filled.parents[1] / "foreign.losses").write_bytes(content)
    assert_known(filled, list(range(6)))
    assert len(caplog.records) == 1
    assert len(ReferenceLosses(filled.parents[1], ONE, TEMPERATURE)) == 6


def test_files_of_another_reference_give_nothing(tmp_path: Path) -> None:
    """Even where they were copied into this one's folder."""
    rows = [[[n], [n + 1]] for n in range(4)]
    theirs = ReferenceLosses(tmp_path, OTHER, TEMPERATURE)
    theirs.get_or_compute(*tokens(rows), lambda chosen: chosen.double())
    ours = ReferenceLosses(tmp_path, ONE, TEMPERATURE)
    assert len(ours) == 0
    (file,) = theirs.folder.iterdir()
    shutil.copy(file, ours.folder)
    ours = ReferenceLosses(tmp_path, ONE, TEMPERATURE)
    assert len(ours) == 4
    losses, share = ours.get_or_compute(*tokens(rows), lambda chosen: 10 + chosen.double())
    assert losses.tolist() == [10, 11, 12, 13]
    assert share == 0


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"module\.reference_cache=.*file.*name a folder"):
        ReferenceLosses(tmp_path / place, ONE, TEMPERATURE)


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
    mp.spawn(write, args=(tmp_path,), nprocs=2)
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
