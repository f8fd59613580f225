"""Search millions of random unit vectors in shards, and compare with all products in float64.

    python experiments/evaluation_at_scale/brute_force.py --folder /tmp/brute_force

Writes the vectors in shards as the evaluation does (half precision), searches them for 256 queries,
and computes every product of some of these. Prints JSON; the folder stays.
"""

import argparse
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.search.dense import exact_search
from tdro_lightning.search.encoding import Shards, encode


class Numbers(Sequence[str]):
    """The texts "0", "1", ... up to a number, none of them in memory."""

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return self.numbers

    def __getitem__(self, place: Any) -> Any:
        numbers = range(self.numbers)[place]
        return [str(n) for n in numbers] if isinstance(place, slice) else str(numbers)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Write, search, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--vectors", type=int, default=5_000_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--compared", type=int, default=64, help="queries compared")
    parser.add_argument("--depth", type=int, default=100)
    given = parser.parse_args(arguments)

    def random(texts: Sequence[str]) -> NDArray[np.float32]:
        generator = np.random.default_rng(int(texts[0]))
        return unit(generator, len(texts), given.dimensions)

    began = time.monotonic()
    shards = encode(Numbers(given.vectors), random, given.folder, "random", half_from=1)
    written = time.monotonic()
    queries = unit(np.random.default_rng([1, 2]), given.queries, given.dimensions)
    scores, indices = exact_search(queries, shards, given.depth)
    searched = time.monotonic()
    result = {
        "vectors": given.vectors,
        "dimensions": given.dimensions,
        "dtype": shards.dtype,
        "shards": shards.count,
        "queries": given.queries,
        "depth": given.depth,
        "seconds to write": round(written - began, 1),
        "seconds to search": round(searched - written, 1),
        "peak GiB": round(peak(), 2),
    }
    part = slice(given.compared)
    result |= compared(queries[part], shards, scores[part], indices[part])
    print(json.dumps(result, indent=2))
    return result


def unit(random: np.random.Generator, count: int, dimensions: int) -> NDArray[np.float32]:
    """Random unit vectors [N, D]."""
    vectors = random.standard_normal((count, dimensions), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def peak() -> float:
    """The most memory that this process has had, in GiB, pages of mapped files among it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) / 2**20


def compared(
    queries: NDArray[np.float32],
    shards: Shards,
    scores: NDArray[np.float32],
    indices: NDArray[np.int64],
) -> dict[str, Any]:
    """How far what was found is from a full sort of all products of what is stored, in float64."""
    products = np.empty((len(queries), len(shards)))
    for shard in range(shards.count):
        span = shards.span(shard)
        products[:, span] = queries.astype(np.float64) @ shards[span].astype(np.float64).T
    depth, other, apart = indices.shape[1], 0, 0.0
    for row, found in enumerate(indices):
        all_of_one = products[row]
        nearest = np.argpartition(-all_of_one, depth)[: depth + 1]
        order = nearest[np.lexsort((nearest, -all_of_one[nearest]))][:depth]
        other += int((order != found).sum())
        apart = max(apart, float(np.abs(all_of_one[order] - all_of_one[found]).max()))
    error = np.abs(np.take_along_axis(products, indices, axis=1) - scores).max()
    return {
        "compared": int(indices.size),
        "other document than by brute force": other,
        "largest difference of score there": apart,
        "largest error of a score": float(error),
    }


if __name__ == "__main__":
    main()
