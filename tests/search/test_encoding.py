import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tdro_lightning.distributed.processes import rank
from tdro_lightning.errors import DataError
from tdro_lightning.search.dense import exact_search
from tdro_lightning.search.encoding import Forecast, Shards, encode
from tests.fixtures.evaluation import in_two_processes

TEXTS = [f"text {i}" for i in range(23)]
FILES = [f"00000{i}.npy" for i in range(5)]
RECEIPTS = [f"00000{i}.json" for i in range(5)]


def embedding(texts: Sequence[str]) -> NDArray[np.float64]:
    """Three numbers that depend on the text alone."""
    return np.array([[len(t), np.sin(int(t.split()[1])), 1 / 3] for t in texts])


class Counted:
    """The embedding; it keeps the calls and fails at one of them."""

    def __init__(self, fails_at: int = -1) -> None:
        self.calls: list[str] = []
        self.fails_at = fails_at

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        if len(self.calls) == self.fails_at:
            raise KeyboardInterrupt
        self.calls.append(texts[0])
        return embedding(texts)


def encoded(folder: Path, embed: Callable, texts: Sequence[str] = TEXTS, **changed) -> Shards:
    return encode(
        texts, embed, folder, **{"encoder": "a", "prompt": "p", "shard_texts": 5} | changed
    )


def test_shards_are_read_like_the_array(tmp_path: Path) -> None:
    shards = encoded(tmp_path / "e", Counted())
    whole = embedding(TEXTS).astype(np.float32)
    assert (shards.shape, len(shards)) == ((23, 3), 23)
    for first in range(23):
        for last in range(first + 1, 26):
            part = shards[first:last]
            assert part.dtype == np.float32
            np.testing.assert_array_equal(part, whole[first:last])
    for block in (1, 4, 5, 7, 23, 100):
        for mine, theirs in zip(
            exact_search(whole[:4], shards, 6, block=block),
            exact_search(whole[:4], whole, 6, block=block),
            strict=True,
        ):
            np.testing.assert_array_equal(mine, theirs)
    names = sorted(p.name for p in shards.folder.iterdir())
    assert names == sorted([*FILES, *RECEIPTS, "manifest.json"])
    assert shards.folder.parent == tmp_path / "e"


def test_rows_are_taken_in_any_order(tmp_path: Path) -> None:
    shards = encoded(tmp_path, Counted())
    whole = embedding(TEXTS).astype(np.float32)
    for rows in ([22, 0, 7, 7, 5, 4, 10], [3], []):
        taken = shards.take(np.array(rows, dtype=np.int64))
        assert taken.dtype == np.float32
        np.testing.assert_array_equal(taken, whole[np.array(rows, dtype=int)])


def test_only_missing_shards_are_encoded(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        encoded(tmp_path, Counted(fails_at=2))
    again = Counted()
    shards = encoded(tmp_path, again)
    assert again.calls == ["text 10", "text 15", "text 20"]
    np.testing.assert_array_equal(shards[:], embedding(TEXTS).astype(np.float32))
    finished = Counted()
    encoded(tmp_path, finished)
    assert finished.calls == []


def test_broken_shards_are_encoded_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = encoded(tmp_path, Counted()).folder
    paths = [folder / name for name in FILES]
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    paths[1].write_bytes(b"")
    paths[2].write_bytes(paths[2].read_bytes() + b"0")
    np.save(paths[3], np.ones((4, 3), np.float32))
    np.save(paths[4], np.ones((3, 3), np.float64))
    again = Counted()
    shards = encoded(tmp_path, again)
    assert again.calls == ["text 0", "text 5", "text 10", "text 15", "text 20"]
    np.testing.assert_array_equal(shards[:], embedding(TEXTS).astype(np.float32))
    messages = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert messages == [f"{path}: is not as it was written; made again" for path in paths]


def test_shards_without_or_with_another_s_checksum_are_encoded_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = encoded(tmp_path, Counted()).folder
    other = encoded(tmp_path, Counted(), encoder="b").folder
    (folder / RECEIPTS[0]).unlink()
    for kind in (FILES, RECEIPTS):  # the first two of them exchanged, and one of another encoder
        for one, two in ((folder / kind[1], folder / kind[2]), (folder / kind[3], other / kind[3])):
            content = one.read_bytes(), two.read_bytes()
            one.write_bytes(content[1])
            two.write_bytes(content[0])
    again = Counted()
    shards = encoded(tmp_path, again)
    assert again.calls == ["text 0", "text 5", "text 10", "text 15"]
    np.testing.assert_array_equal(shards[:], embedding(TEXTS).astype(np.float32))
    assert f"{folder / FILES[0]}: has no checksum; made again" in caplog.messages


@pytest.mark.parametrize(
    "changed",
    [
        {"encoder": "b"},
        {"prompt": None},
        {"prompt": "p "},
        {"shard_texts": 6},
        {"half_from": 23},
        {"texts": TEXTS[:-1]},
        {"texts": [*TEXTS[:-2], "text 2", "1text 22"]},
        {"texts": TEXTS[::-1]},
    ],
)
def test_embeddings_of_something_else_lie_beside(tmp_path: Path, changed: dict) -> None:
    def letters(texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([[len(text), ord(text[-1])] for text in texts])

    first = encoded(tmp_path, letters)
    calls: list[str] = []

    def other(texts: Sequence[str]) -> NDArray[np.float64]:
        calls.extend(texts)
        return -letters(texts)

    shards = encoded(tmp_path, other, **changed)
    texts = changed.get("texts", TEXTS)
    assert calls == texts
    np.testing.assert_array_equal(shards[:], -letters(texts))
    np.testing.assert_array_equal(first[:], letters(TEXTS))
    encoded(tmp_path, other)
    encoded(tmp_path, other, **changed)
    assert calls == texts


def test_half_precision_from_a_number_of_texts_on(tmp_path: Path) -> None:
    full, half = (encoded(tmp_path, Counted(), half_from=number) for number in (24, 23))
    assert (full.dtype, half.dtype) == ("float32", "float16")
    assert (full[3:9].dtype, half[3:9].dtype) == (np.float32, np.float16)
    np.testing.assert_array_equal(half[:], embedding(TEXTS).astype(np.float16))
    sizes = [(s.folder / FILES[0]).stat().st_size - 128 for s in (full, half)]
    assert sizes == [5 * 3 * 4, 5 * 3 * 2]


def test_half_precision_keeps_the_ranking() -> None:
    """Unit vectors: scores move by 1e-4 at most, and only documents that near change places."""
    random = np.random.default_rng(0)
    documents, queries = (
        (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32)
        for v in (random.standard_normal((n, 384)) for n in (20_000, 50))
    )
    full, exact = exact_search(queries, documents, 100)
    half, rounded = exact_search(queries, documents.astype(np.float16), 100)
    assert np.abs(full - half).max() < 1e-4
    true = np.take_along_axis(queries @ documents.T, rounded, axis=1)
    assert np.abs(true - full).max() < 1e-4
    kept = [len(set(a) & set(b)) for a, b in zip(exact, rounded, strict=True)]
    assert np.mean(kept) > 99.5
    np.testing.assert_array_equal(exact[:, 0], rounded[:, 0])


def test_the_forecast_follows_the_first_shard(tmp_path: Path) -> None:
    forecasts: list[Forecast] = []
    embed = Counted()

    def announce(forecast: Forecast) -> None:
        assert embed.calls == ["text 0"]
        forecasts.append(forecast)

    encoded(tmp_path, embed, announce=announce)
    encoded(tmp_path, embed, announce=announce)
    encoded(tmp_path, embed, announce=announce, shard_texts=23)
    (forecast,) = forecasts
    assert (forecast.missing, forecast.processes, forecast.bytes) == (4, 1, 23 * 3 * 4)
    assert 0 <= forecast.seconds < 1


def test_shards_that_cannot_be_read(tmp_path: Path) -> None:
    shards = encoded(tmp_path, Counted())
    (shards.folder / FILES[2]).unlink()
    assert len(shards[:10]) == 10
    with pytest.raises(DataError, match=r"000002\.npy: no such file"):
        shards[9:11]
    np.save(shards.folder / FILES[2], np.ones((5, 3), np.float32))
    with pytest.raises(DataError, match=r"000002\.npy: is not as it was written"):
        shards[:]
    (shards.folder / RECEIPTS[2]).unlink()
    with pytest.raises(DataError, match=r"000002\.npy: these embeddings have no checksum"):
        shards.take(np.array([11]))
    with pytest.raises(ValueError, match=r"5 texts have embeddings \(4, 3\)"):
        encoded(tmp_path / "wrong", lambda texts: embedding(texts)[1:])


def work(folder: Path) -> None:
    embed = Counted()
    shards = encoded(folder / "two", embed)
    np.save(folder / f"read-{rank()}.npy", shards[:])
    (folder / f"calls-{rank()}").write_text(",".join(embed.calls))
    try:
        encoded(folder / "torn", embed, encoder=f"of rank {rank()}")
    except RuntimeError as error:
        (folder / f"refused-{rank()}").write_text(str(error))


def test_two_processes_share_the_shards(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        encoded(tmp_path / "two", Counted(fails_at=1))
    in_two_processes(work, tmp_path)
    assert (tmp_path / "calls-0").read_text() == "text 10,text 20"
    assert (tmp_path / "calls-1").read_text() == "text 5,text 15"
    for number in range(2):
        read = np.load(tmp_path / f"read-{number}.npy")
        np.testing.assert_array_equal(read, embedding(TEXTS).astype(np.float32))
        refused = (tmp_path / f"refused-{number}").read_text()
        assert refused == "the processes were given different texts or different encoders"


def large_shards(folder: Path, rows: int, dtype: str = "float16") -> Shards:
    """Shards of 4,096 rows in 384 dimensions, of which the first is there."""
    one = Shards(folder, rows, 4096, dtype)
    one.write(0, np.ones((4096, 384), np.float32))
    return one


def test_time_and_disk(tmp_path: Path) -> None:
    forecast = Forecast(large_shards(tmp_path, 90_000_000), 21_965, 86_400 + 7_260, 8)
    assert forecast.bytes == 90_000_000 * 384 * 2
    assert forecast.missing_bytes == 21_965 * 4096 * 384 * 2
    assert str(forecast) == (
        "90,000,000 texts in 384 dimensions (float16), 69.12 GB in 21,973 shards; "
        "21,965 of them to encode, about 1 day, 2:01:00 with 8 processes"
    )
    assert Forecast(large_shards(tmp_path, 8192, "float32"), 1, 0, 1).bytes == 8192 * 384 * 4


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    rows = free // (384 * 2)
    Forecast(large_shards(tmp_path, rows), rows // 4096 // 2, 0, 1).require_room()
    message = r"the embeddings take .* GB more, .* GB are free; .* evaluate\.embeddings=FOLDER"
    with pytest.raises(DataError, match=message):
        Forecast(large_shards(tmp_path, 2 * rows), 2 * rows // 4096, 0, 1).require_room()
