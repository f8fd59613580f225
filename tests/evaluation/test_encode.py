import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.encode import Shards, encode
from tdro_lightning.processes import barrier
from tdro_lightning.retrieval.distributed import rank
from tdro_lightning.retrieval.search import exact_search
from tests.evaluation.conftest import in_two_processes

TEXTS = [f"text {i}" for i in range(23)]
FILES = [f"00000{i}.npy" for i in range(5)]


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
    assert sorted(p.name for p in (tmp_path / "e").iterdir()) == [*FILES, "manifest.json"]


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
    encoded(tmp_path, Counted())
    paths = [tmp_path / name for name in FILES]
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
    assert [m.split(": encoded again")[0] for m in messages] == [str(p) for p in paths]
    assert "expected 5 rows of float32, found float32 (4, 3)" in messages[3]


@pytest.mark.parametrize(
    "changed",
    [
        {"encoder": "b"},
        {"prompt": None},
        {"prompt": "p "},
        {"shard_texts": 6},
        {"texts": TEXTS[:-1]},
        {"texts": [*TEXTS[:-2], "text 2", "1text 22"]},
        {"texts": TEXTS[::-1]},
    ],
)
def test_embeddings_of_something_else_are_not_reused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: dict
) -> None:
    def letters(texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([[len(text), ord(text[-1])] for text in texts])

    encoded(tmp_path / "e", letters)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    calls: list[str] = []

    def other(texts: Sequence[str]) -> NDArray[np.float64]:
        calls.extend(texts)
        return -letters(texts)

    shards = encoded(tmp_path / "e", other, **changed)
    texts = changed.get("texts", TEXTS)
    assert calls == texts
    np.testing.assert_array_equal(shards[:], -letters(texts))
    assert f"{tmp_path}/e: of other texts or another encoder, begun anew" in caplog.text


def test_a_folder_without_manifest_is_begun_anew(tmp_path: Path) -> None:
    encoded(tmp_path / "e", Counted())
    (tmp_path / "e" / "manifest.json").unlink()
    again = Counted()
    encoded(tmp_path / "e", again)
    assert len(again.calls) == 5


def test_shards_that_cannot_be_read(tmp_path: Path) -> None:
    shards = encoded(tmp_path, Counted())
    (tmp_path / FILES[2]).unlink()
    assert len(shards[:10]) == 10
    with pytest.raises(DataError, match="000002.npy: the embeddings cannot be read"):
        shards[9:11]
    wrong = encoded(tmp_path / "wrong", lambda texts: embedding(texts)[1:])
    with pytest.raises(DataError, match=r"000000.npy: .*expected 5 rows of float32, found .*4, 3"):
        wrong[:]


def work(folder: Path) -> None:
    embed = Counted()
    shards = encoded(folder / "two", embed)
    np.save(folder / f"read-{rank()}.npy", shards[:])
    (folder / f"calls-{rank()}").write_text(",".join(embed.calls))
    try:
        encoded(folder / "torn", embed, encoder=f"of rank {rank()}")
    except RuntimeError as error:
        (folder / "refused").write_text(str(error))
        barrier()


def test_two_processes_share_the_shards(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        encoded(tmp_path / "two", Counted(fails_at=1))
    in_two_processes(work, tmp_path)
    assert (tmp_path / "calls-0").read_text() == "text 10,text 20"
    assert (tmp_path / "calls-1").read_text() == "text 5,text 15"
    for number in range(2):
        read = np.load(tmp_path / f"read-{number}.npy")
        np.testing.assert_array_equal(read, embedding(TEXTS).astype(np.float32))
    refused = (tmp_path / "refused").read_text()
    assert refused == "rank 1 has other texts or another encoder than rank 0"
