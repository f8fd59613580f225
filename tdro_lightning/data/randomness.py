"""Random generators as pure functions of what they are for, so that a resume draws the same."""

import zlib

import numpy as np
from numpy.typing import NDArray


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A generator for one purpose and place; equal arguments give equal draws in any process.

    Philox is counter-based: each (seed, purpose, counters) addresses its own stream without having
    to draw the streams before it.

    Args:
        seed: the run's seed.
        purpose: what the draws are for, such as a domain's name.
        counters: up to two further numbers, such as step and row.
    """
    step, row = (*counters, 0, 0)[:2]
    return np.random.Generator(
        np.random.Philox(key=[seed, zlib.crc32(purpose.encode())], counter=[0, 0, step, row])
    )


def choose_rows(domain: str, rows: int, count: int) -> NDArray[np.int64]:
    """Ascending numbers of `count` of a domain's rows, drawn by its name: always the same ones."""
    return np.sort(generator(0, f"rows {domain}").permutation(rows)[:count])
