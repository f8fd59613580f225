"""What counts as equal, and what is said where it is not."""

from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.export.proof import Sample, _check, check_readers
from tdro_lightning.models.templates import PAPER

VECTORS = np.eye(3, dtype=np.float32)
OURS = Sample(
    "last", True, 16, 32, PAPER, None, ["a", "b", "c"], ["d"],
    {"queries": VECTORS, "documents": VECTORS[:1]},
)  # fmt: skip


def turned(cosine: float) -> np.ndarray:
    """The first vector turned until the cosine with what it was is this one."""
    vectors = VECTORS.copy()
    vectors[0] = cosine, np.sqrt(1 - cosine**2), 0
    return vectors


def test_smallest_cosine_and_largest_difference_over_queries_and_documents() -> None:
    theirs = {"x/queries": turned(0.999995), "x/documents": VECTORS[:1], "y/queries": VECTORS}
    found = _check("x", OURS, theirs)
    assert found.cosine == pytest.approx(0.999995, abs=1e-7)
    assert found.difference == pytest.approx(np.sqrt(1 - 0.999995**2), rel=1e-3)
    assert _check("y", OURS, theirs).cosine == 1


@pytest.mark.parametrize("cosine", [0.99998, 0.0, -1.0, np.nan])
def test_other_embeddings_are_refused_with_the_text(cosine: float) -> None:
    theirs = {"x/queries": turned(cosine), "x/documents": VECTORS[:1]}
    with pytest.raises(
        DataError, match=r"x reads other emb.* one of the queries \('a'\), at least"
    ):
        _check("x", OURS, theirs)


def test_a_fresh_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read by a fresh process"):
        check_readers(OURS, tmp_path, None, None, python="false")
