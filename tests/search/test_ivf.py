from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tdro_lightning.search.ivf import ROWS_AT_ONCE, ivf_search, write_ivf


def unit(count: int, size: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clustered(count: int, seed: int) -> NDArray[np.float32]:
    """Vectors around 200 centres, as texts of so many topics would lie."""
    generator = np.random.default_rng(seed)
    near = unit(200, 32, 0)[generator.integers(200, size=count)] + 0.6 * unit(count, 32, seed)
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)


def test_most_of_the_nearest_are_found(tmp_path: Path) -> None:
    documents, queries = clustered(ROWS_AT_ONCE + 3000, 1), clustered(100, 2)
    write_ivf(documents, tmp_path / "new" / "index.ivf")
    scores, indices = ivf_search(tmp_path / "new" / "index.ivf", queries, 10)
    exact = queries @ documents.T
    best = np.argsort(-exact, axis=1)[:, :10]
    found = [len(set(a) & set(b)) for a, b in zip(indices, best, strict=True)]
    assert np.mean(found) > 9
    # Scores are those of vectors in half precision, best first.
    np.testing.assert_allclose(scores, np.take_along_axis(exact, indices, axis=1), atol=2e-3)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"index.ivf", "index.ivf.json"}
    assert (tmp_path / "new" / "index.ivf").stat().st_size < 2.6 * documents.size + 2**18


@pytest.mark.parametrize("count", [1, 5, 127])
def test_a_small_pool_is_searched_whole(tmp_path: Path, count: int) -> None:
    documents, queries = unit(count, 8, 3), unit(4, 8, 4)
    write_ivf(documents, tmp_path / "index.ivf")
    scores, indices = ivf_search(tmp_path / "index.ivf", queries, 6)
    exact = queries @ documents.T
    hits = min(count, 6)
    np.testing.assert_array_equal(indices[:, :hits], np.argsort(-exact, axis=1)[:, :hits])
    assert (indices[:, hits:] == -1).all()
    assert not scores[:, hits:].any()


def test_equal_scores_are_ordered_by_index(tmp_path: Path) -> None:
    documents = np.repeat(unit(2, 8, 5), 4, axis=0)
    write_ivf(documents, tmp_path / "index.ivf")
    _, indices = ivf_search(tmp_path / "index.ivf", documents[:1], 8)
    assert indices[0].tolist() == list(range(8))


def test_an_index_is_built_once_and_alike(tmp_path: Path) -> None:
    documents = clustered(3000, 6)
    for name in ("one", "two"):
        write_ivf(documents, tmp_path / name)
    content = (tmp_path / "one").read_bytes()
    assert (tmp_path / "two").read_bytes() == content
    write_ivf(unit(9, 8, 0), tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == content
