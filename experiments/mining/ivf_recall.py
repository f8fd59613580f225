"""What an IVF index finds of the exact neighbours, and what it costs.

`python experiments/mining/ivf_recall.py ENCODER MERGED_ROWS`: all passages of the rows as the pool,
2,000 of their queries. Without arguments: 200,000 random vectors around 2,000 centres.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.data.jsonl import read_rows
from tdro_lightning.mining.pool import domain_pool
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.search.dense import exact_search
from tdro_lightning.search.ivf import ivf_search, write_ivf

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def embedded(encoder: str, rows_file: str) -> Pair:
    """Passages and queries of real rows."""
    rows = [row for _, row in read_rows(Path(rows_file))]
    model = load_encoder(encoder, pooling="mean", query_tokens=64, passage_tokens=64)
    queries = [row["query"] for row in rows[:: len(rows) // 2000]]
    return model.embed_passages(domain_pool(rows).texts), model.embed_queries(queries, None)


def made_up(count: int = 200_000, size: int = 384) -> Pair:
    """Random unit vectors around centres, and others around the same centres as queries."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((2000, size)).astype(np.float32)

    def around(number: int) -> NDArray[np.float32]:
        noise = generator.standard_normal((number, size)).astype(np.float32)
        vectors = centres[generator.integers(2000, size=number)] + noise
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return around(count), around(2000)


def main() -> None:
    """Print the figures."""
    passages, queries = embedded(*sys.argv[1:]) if len(sys.argv) == 3 else made_up()
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index.ivf"
        began = time.process_time()
        write_ivf(passages, index)
        built = time.process_time()
        _, found = ivf_search(index, queries, 100)
        searched = time.process_time()
        _, exact = exact_search(queries, passages, 100)
        ended = time.process_time()
        size = index.stat().st_size
    print(f"{len(passages):,} vectors of {passages.shape[1]}, {len(queries):,} queries")
    for depth in (1, 10, 100):
        parts = zip(found[:, :depth], exact[:, :depth], strict=True)
        recall = np.mean([len(set(a) & set(b)) / depth for a, b in parts])
        print(f"recall of the best {depth}: {recall:.3f}")
    print(f"build {built - began:.1f} s, {size / passages.size:.2f} bytes a value")
    print(f"search {searched - built:.1f} s, exact {ended - searched:.1f} s (processor time)")


if __name__ == "__main__":
    main()
