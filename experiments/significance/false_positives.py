"""How often the tests call two equally good retrievers different; prints Markdown.

    python experiments/significance/false_positives.py

Each query has one relevant document, which both retrievers find at a rank drawn alike: its nDCG@10
is 1 / log2(rank + 1) or 0. Queries differ in difficulty, so many differences are 0.
"""

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.report.significance import LEVEL, PairedTest, holm, query_test, seed_test

RESAMPLES = 1999
SETS = (50, 60, 80, 100, 150, 200, 250, 300)  # queries of the sets that are averaged


def main() -> None:
    """Print a row for each kind of test."""
    print("| tested | comparisons | t-test | randomisation | interval without 0 |")
    print("|---|--:|--:|--:|--:|")
    rng = np.random.default_rng(0)
    for queries, count in ((50, 10_000), (300, 10_000)):
        tests = [tested([difference(rng, queries)], i) for i in range(count)]
        print_row(f"one set of {queries} queries", tests)
    tests = [tested([difference(rng, size) for size in SETS], i) for i in range(5_000)]
    print_row(f"the average over {len(SETS)} sets of 50 to 300 queries", tests)
    seeds = [seed_test(rng.normal(0, 1, 3).tolist()) for _ in range(10_000)]
    print_row("three seeds", seeds)
    starred, count = 0, 5_000
    for i in range(count):
        tests = [tested([difference(rng, 50)], i) for _ in SETS]
        adjusted = holm([one.randomisation for one in tests])
        starred += any(p is not None and p < LEVEL for p in adjusted)
    print(f"\nTables of {len(SETS)} sets with a mark somewhere, adjusted by Holm: ", end="")
    print(f"{100 * starred / count:.2f} % of {count:,}.")


def difference(rng: np.random.Generator, queries: int) -> NDArray[np.float64]:
    """Difference in nDCG@10 of each query."""
    found = np.clip(rng.beta(0.6, 0.9, queries), 0.02, 1)
    ranks = rng.geometric(found, (2, queries))
    scores = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0)
    return scores[0] - scores[1]


def tested(sets: list[NDArray[np.float64]], seed: int) -> PairedTest:
    """The test of the average over sets."""
    return query_test(sets, [1 / len(sets)] * len(sets), resamples=RESAMPLES, seed=seed)


def print_row(name: str, tests: list[PairedTest]) -> None:
    """Print the shares of p-values under the level."""
    found = [[one.t_test for one in tests], [one.randomisation for one in tests]]
    shares = [
        "–" if None in values else f"{100 * np.mean([v < LEVEL for v in values]):.2f} %"
        for values in found
    ]
    outside = np.mean([not one.low <= 0 <= one.high for one in tests])
    print(f"| {name} | {len(tests):,} | {' | '.join(shares)} | {100 * outside:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
