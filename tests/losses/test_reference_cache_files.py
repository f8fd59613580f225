"""The files of a reference cache: damaged, foreign, old or not to be written."""

import logging
import math
import shutil
import sqlite3
import struct
import zlib
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tdro_lightning.errors import ConfigError, ResourceError
from tdro_lightning.losses.reference_cache import ReferenceLosses
from tests.losses.test_reference_cache import ONE, OTHER, TEMPERATURE, made, tokens


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
