"""Blocks of an inverted index: taken up, shared by processes, and merged."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from tdro_lightning.distributed.processes import rank
from tdro_lightning.errors import DataError
from tdro_lightning.search import inverted_blocks
from tdro_lightning.search.inverted import SparseRetriever
from tdro_lightning.search.inverted_blocks import merge_hits
from tests.fixtures.evaluation import in_two_processes
from tests.search.sparse_rows import Rows, indexed, names, real


def test_merging_keeps_the_best_of_both() -> None:
    random = np.random.default_rng(8)
    for depth in (1, 5, 300):
        scores = random.integers(0, 40, 5000).astype(np.float32)
        best = np.full(depth, -np.inf, dtype=np.float32)
        indices = np.full(depth, -1)
        for first in range(0, 5000, 1250):
            merge_hits(scores[first : first + 1250], first, best, indices)
        expected = np.argsort(-scores, kind="stable")[:depth]
        np.testing.assert_array_equal(indices, expected)
        np.testing.assert_array_equal(best, scores[expected])


class Fails(Rows):
    """Fails at one of its calls, as a process that is killed would."""

    def __init__(self, rows: csr_array, at: int) -> None:
        super().__init__(rows)
        self.left = at

    def __call__(self, texts: Sequence[str], prompt: str | None = None) -> csr_array:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().__call__(texts)


def test_a_run_takes_up_what_an_earlier_one_finished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    documents = real(np.random.default_rng(9), 30, 8)
    options = {"shard_texts": 8, "block_documents": 10}
    killed = SparseRetriever(Rows(documents), Fails(documents, 2), "rows", **options)
    with pytest.raises(KeyboardInterrupt):
        killed.index(names(documents), tmp_path, "made")
    embed = Rows(documents)
    sparse = SparseRetriever(embed, embed, "rows", **options)
    index = sparse.index(names(documents), tmp_path, "made")
    assert embed.asked == names(documents)[16:]
    expected = index.search(documents, 5)
    whole = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert sorted(p.name for p in index.blocks[0].path.parent.iterdir()) == [
        f"00000{i}.{kind}" for i in range(3) for kind in ("csc", "json")
    ]
    embed.asked.clear()
    shards = sorted(index.documents.folder.glob("*.csr"))
    assert len(shards) == 4
    shards[0].unlink()
    shards[3].write_bytes(shards[3].read_bytes()[:-1] + b"!")
    index.blocks[0].path.write_bytes(b"")
    index.blocks[1].path.with_suffix(".json").unlink()
    index.blocks[2].path.unlink()
    caplog.clear()
    again = sparse.index(names(documents), tmp_path, "made")
    assert embed.asked == [*names(documents)[:8], *names(documents)[24:]]
    assert caplog.messages[0] == f"{shards[0]}: no such file or folder; made again"
    for path, fault in (
        (shards[3], "is not as it was written"),
        (index.blocks[0].path, "is not as it was written"),
        (index.blocks[1].path, "has no checksum"),
        (index.blocks[2].path, "no such file or folder"),
    ):
        assert f"{path}: {fault}; made again" in caplog.messages
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == whole
    for ours, theirs in zip(again.search(documents, 5), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_damage_after_indexing_ends_the_search(tmp_path: Path) -> None:
    documents = real(np.random.default_rng(10), 30, 8)
    index = indexed(tmp_path, documents, block_documents=10)
    path = index.blocks[1].path
    path.write_bytes(path.read_bytes()[:-4] + b"1234")
    with pytest.raises(DataError, match=r"000001\.csc: is not as it was written"):
        index.search(documents, 5)
    path.unlink()
    with pytest.raises(DataError, match=r"000001\.csc: no such file"):
        index.search(documents, 5)
    path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match=r"000001\.csc: this index has no checksum; run the"):
        index.search(documents, 5)


def test_a_block_is_checked_when_it_is_opened_and_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = real(np.random.default_rng(12), 30, 8)
    index = indexed(tmp_path, documents, block_documents=10)
    read, checked = inverted_blocks.read_receipt, list[Path]()

    def noted(path: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
        checked.append(path)
        return read(path, made_from)

    monkeypatch.setattr(inverted_blocks, "read_receipt", noted)
    expected = index.search(documents, 5)
    index.search(documents, 5)
    assert len(checked) == 6  # a change of files as new as these might not be seen
    monkeypatch.setattr("tdro_lightning.files.SETTLED", 0.0)
    checked.clear()
    for _ in range(3):
        for ours, theirs in zip(index.search(documents, 5), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert checked == [block.path.with_suffix(".json") for block in index.blocks]
    path = index.blocks[1].path
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"1234")
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=r"000001\.csc: is not as it was written"):
        index.search(documents, 5)
    path.write_bytes(content)
    np.testing.assert_array_equal(index.search(documents, 5)[0], expected[0])
    path.with_suffix(".json").unlink()
    with pytest.raises(DataError, match=r"000001\.csc: this index has no checksum"):
        index.search(documents, 5)


SHARED = real(np.random.default_rng(11), 40, 9)


def work(folder: Path) -> None:
    embed = Rows(SHARED)
    sparse = SparseRetriever(embed, embed, "rows", shard_texts=8, block_documents=16)
    index = sparse.index(names(SHARED), folder / "shared", "made")
    (folder / f"asked-{rank()}").write_text(",".join(embed.asked[::8]))
    scores, indices = index.search(SHARED, 7)
    np.savez(folder / f"found-{rank()}.npz", scores=scores, indices=indices)


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    in_two_processes(work, tmp_path)
    assert (tmp_path / "asked-0").read_text() == "0,16,32"
    assert (tmp_path / "asked-1").read_text() == "8,24"
    alone = indexed(tmp_path / "alone", SHARED, shard_texts=8, block_documents=16)
    expected = alone.search(SHARED, 7)
    for number in range(2):
        found = np.load(tmp_path / f"found-{number}.npz")
        np.testing.assert_array_equal(found["scores"], expected[0])
        np.testing.assert_array_equal(found["indices"], expected[1])
    files = [
        {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        for folder in (tmp_path / "alone", tmp_path / "shared")
    ]
    assert files[0] == files[1]


def test_real_weights_give_the_same_bits_however_documents_are_divided(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    documents, queries = real(random, 6000, 60), real(random, 20, 15)
    found = [
        indexed(tmp_path / str(number), documents, **limits).search(queries, 50)
        for number, limits in enumerate(
            [{}, {"block_documents": 999}, {"block_weights": 20_000, "shard_texts": 100}]
        )
    ]
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    exact = (queries.astype(np.float64) @ documents.astype(np.float64).T).toarray()
    scores, indices = found[0]
    np.testing.assert_allclose(scores, np.take_along_axis(exact, indices, axis=1), rtol=1e-6)
    # Whatever is left out is not better than the last that was found.
    np.put_along_axis(exact, indices, -1, axis=1)
    assert (exact.max(axis=1) <= scores[:, -1] * (1 + 1e-6)).all()
