"""Compare the retrievers of a study over its seeds, with paired tests; prints Markdown.

    python experiments/compare_seeds.py runs/measurement_tdro_mini reference random70

The folder holds `seed<n>/<step>/metrics.json`; the steps named after it are those that the others
are compared with. Values are nDCG@10 x 100, averaged over the evaluation sets.

Two tests, both paired and two-sided. *Seeds*: t-test of the differences, one for each seed.
*Queries*: randomisation of the sign of each query's difference, averaged over seeds; the statistic
is the average over sets. Queries say whether these very models differ, seeds whether training anew
would show it again. Adjusted by Holm over the comparisons of one table.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

METRIC = "ndcg@10"
Scores = dict[str, NDArray[np.float64]]  # of a set: [seeds, queries], in x 100


def main() -> None:
    """Print weights and retrieval of every step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("baselines", nargs="+")
    arguments = parser.parse_args()
    seeds = sorted(arguments.folder.glob("seed*"))
    print(f"{len(seeds)} seeds: {', '.join(seed.name for seed in seeds)}\n")
    print_weights(seeds)
    names = [p.parent.name for p in sorted(seeds[0].glob("*/metrics.json"))]
    complete = [n for n in names if all((s / n / "metrics.json").is_file() for s in seeds)]
    found = {name: scores(seeds, name) for name in complete}
    print_sets(found)
    for baseline in arguments.baselines:
        print_comparison(found, baseline)


def scores(seeds: list[Path], step: str) -> Scores:
    """Every query's score, by set."""
    by_set: Scores = {}
    folders = [next((seed / step / "per_query").iterdir()) for seed in seeds]
    for path in sorted(folders[0].glob("*.json")):
        queries = [json.loads((folder / path.name).read_text()) for folder in folders]
        order = sorted(queries[0])
        by_set[path.stem] = 100 * np.array([[q[i][METRIC] for i in order] for q in queries])
    return by_set


def averages(found: Scores) -> NDArray[np.float64]:
    """Average over the sets, one a seed."""
    return np.mean([values.mean(axis=1) for values in found.values()], axis=0)


def print_sets(found: dict[str, Scores]) -> None:
    """Print a table of means over seeds, by set."""
    sets = list(next(iter(found.values())))
    print(f"| retriever | average | by seed | {' | '.join(sets)} |")
    print("|---|--:|--:|" + "--:|" * len(sets))
    for name, values in sorted(found.items(), key=lambda item: -averages(item[1]).mean()):
        own = averages(values)
        by_seed = " ".join(f"{value:.1f}" for value in own)
        cells = " | ".join(f"{values[one].mean():.1f}" for one in sets)
        print(f"| {name} | {own.mean():.1f} | {by_seed} | {cells} |")
    print()


def print_comparison(found: dict[str, Scores], baseline: str) -> None:
    """Print a table of differences to one step, with both tests."""
    others = [name for name in found if name != baseline]
    differences = {n: averages(found[n]) - averages(found[baseline]) for n in others}
    by_seed = [float(stats.ttest_1samp(differences[n], 0).pvalue) for n in others]
    by_query = [query_test(found[n], found[baseline]) for n in others]
    print(f"| against {baseline} | difference | seeds' std | p, seeds | p, queries |")
    print("|---|--:|--:|--:|--:|")
    rows = zip(others, holm(by_seed), holm(by_query), strict=True)
    for name, seeds, queries in sorted(rows, key=lambda row: -differences[row[0]].mean()):
        change = differences[name]
        print(
            f"| {name} | {change.mean():+.1f} | {change.std(ddof=1):.1f} | {seeds:.3f} | "
            f"{queries:.4f} |"
        )
    print()


def query_test(ours: Scores, theirs: Scores) -> float:
    """p of the average over sets under random signs of the queries' differences."""
    each = [(ours[s] - theirs[s]).mean(axis=0) / ours[s].shape[1] for s in ours]
    weighted = np.concatenate(each) / len(each)
    tested = stats.permutation_test(
        (weighted,), np.sum, permutation_type="samples", n_resamples=9999,
        rng=np.random.default_rng(0), vectorized=True, batch=500,
    )  # fmt: skip
    return float(tested.pvalue)


def holm(values: list[float]) -> list[float]:
    """p-values adjusted so that the chance of any false finding among them stays at the level."""
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(np.argsort(values)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def print_weights(seeds: list[Path]) -> None:
    """Print a table of the learned weights: concentration, and agreement between seeds."""
    print(
        "| weights | max/min | effective domains | Spearman between seeds | kept by two seeds "
        "| heaviest three |"
    )
    print("|---|--:|--:|--:|--:|---|")
    for path in sorted(seeds[0].glob("*/weights.json")):
        files = [seed / path.parent.name / path.name for seed in seeds]
        if not all(file.is_file() for file in files):
            continue
        named = [json.loads(file.read_text())["domain_weights"] for file in files]
        names = list(named[0])
        weights = np.array([[one[name] for name in names] for one in named])
        pairs = [(i, j) for i in range(len(seeds)) for j in range(i)]
        agreement = [stats.spearmanr(weights[i], weights[j]).statistic for i, j in pairs]
        count = len(names) * 70 // 100
        kept = [set(np.argsort(-one)[:count]) for one in weights]
        shared = np.mean([len(kept[i] & kept[j]) for i, j in pairs])
        effective = np.exp(-(weights * np.log(weights)).sum(axis=1)).mean()
        heaviest = [names[i] for i in np.argsort(-weights.mean(axis=0))[:3]]
        print(
            f"| {path.parent.name} | {(weights.max(1) / weights.min(1)).mean():,.0f} | "
            f"{effective:.1f} | {np.mean(agreement):.2f} ({min(agreement):.2f} to "
            f"{max(agreement):.2f}) | {shared:.1f} of {count} | {', '.join(heaviest)} |"
        )
    print()


if __name__ == "__main__":
    main()
