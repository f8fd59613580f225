"""Compare the retrievers of a study over its seeds, with paired tests; prints Markdown.

    python experiments/compare_seeds.py runs/measurement_tdro_mini reference random70

The first argument is a folder of runs, such as `seed<n>/<step>`; the steps named after it are those
that the others are compared with. `--also` adds another study's folder. Values are nDCG@10 x 100.
What is tested and how: docs/statistics.md.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import stats

from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.gains import compare_with_baselines, few_seeds_warning
from tdro_lightning.report.identity import set_notes
from tdro_lightning.report.result_tables import average_table, seeds_table
from tdro_lightning.report.results import Result, results_over_seeds
from tdro_lightning.report.runs import Run
from tdro_lightning.report.tables import markdown_table

METRIC = "ndcg@10"
TITLE = "nDCG@10"
Weights = dict[int | None, dict[str, float]]
SHARE = 70  # per cent of the domains whose selection is compared between seeds


def main() -> None:
    """Print weights and retrieval of every step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("baselines", nargs="+")
    parser.add_argument("--also", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    runs = collect_runs([arguments.folder, *arguments.also])
    results = by_step(results_over_seeds(runs))
    weights = learned(runs)
    print_weights(weights)
    print_agreement(weights)
    for note in set_notes(runs):
        print(f"{note}\n")
    print_sets(list(results.values()))
    for baseline in arguments.baselines:
        if baseline not in results:
            parser.error(f"no step {baseline}; there are {', '.join(results)}")
        pairs = [(result, results[baseline]) for result in results.values()]
        found = compare_with_baselines(
            [pair for pair in pairs if pair[0] != pair[1]], METRIC, None, list(results.values())
        )
        found.sort(key=lambda one: -one.average.difference)
        print(f"{markdown_table(average_table(found, TITLE))}\n")
        print(f"{markdown_table(seeds_table(found, TITLE))}\n")
        print(f"{few_seeds_warning(found)}\n")


def by_step(results: Sequence[Result]) -> dict[str, Result]:
    """Trials under the name of their step."""
    named = {result.run.rpartition("/")[2]: result for result in results}
    return {step: dataclasses.replace(result, name=step) for step, result in named.items()}


def print_sets(results: Sequence[Result]) -> None:
    """Print a table of means over seeds, by set; of the sets that every step was evaluated on."""
    sets = [n for n in results[0].common_sets(METRIC) if all(t.has(n, METRIC) for t in results)]
    if not sets:
        print("No evaluation set that all steps have.\n")
        return
    means = {result.name: [result.score(name, METRIC) for name in sets] for result in results}
    print(f"| retriever | seeds | average | by seed | {' | '.join(sets)} |")
    print("|---|--:|--:|--:|" + "--:|" * len(sets))
    for result in sorted(results, key=lambda one: -np.mean(means[one.name])):
        own = np.mean([result.scores(name, METRIC) for name in sets], axis=0)
        by_seed = " ".join(f"{value:.1f}" for value in own)
        cells = " | ".join(f"{value:.1f}" for value in means[result.name])
        print(f"| {result.name} | {len(own)} | {own.mean():.1f} | {by_seed} | {cells} |")
    print()


def print_weights(found: Mapping[str, Weights]) -> None:
    """Print a table of the learned weights: concentration, and agreement between seeds."""
    print(
        "| weights | max/min | effective domains | Spearman between seeds | kept by two seeds "
        "| heaviest three |"
    )
    print("|---|--:|--:|--:|--:|---|")
    for step, by_seed in found.items():
        if len(by_seed) > 1:
            weights = np.array([list(one.values()) for one in by_seed.values()])
            effective = np.exp(-(weights * np.log(weights)).sum(axis=1)).mean()
            names = list(next(iter(by_seed.values())))
            heaviest = [names[i] for i in np.argsort(-weights.mean(axis=0))[:3]]
            print(
                f"| {step} | {(weights.max(1) / weights.min(1)).mean():,.0f} | {effective:.1f} | "
                f"{agreement(list(combinations(by_seed.values(), 2)))} | {', '.join(heaviest)} |"
            )
    print()


def print_agreement(found: Mapping[str, Weights]) -> None:
    """Print a table of the agreement between the weights of two steps of the same seed."""
    print("| weights | and | seeds | Spearman | kept by both |")
    print("|---|---|--:|--:|--:|")
    for one, other in combinations(found, 2):
        seeds = [seed for seed in found[one] if seed in found[other]]
        if seeds:
            pairs = [(found[one][seed], found[other][seed]) for seed in seeds]
            print(f"| {one} | {other} | {len(seeds)} | {agreement(pairs)} |")
    print()


def agreement(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> str:
    """Mean and range of the rank correlation, and how many domains both keep, as two cells."""
    names = list(pairs[0][0])
    count = len(names) * SHARE // 100
    ranks, shared = [], []
    for pair in pairs:
        one, other = ([weights[name] for name in names] for weights in pair)
        ranks.append(stats.spearmanr(one, other).statistic)
        kept = [set(np.argsort(-np.array(values))[:count]) for values in (one, other)]
        shared.append(len(kept[0] & kept[1]))
    spread = f"{np.mean(ranks):.2f} ({min(ranks):.2f} to {max(ranks):.2f})"
    return f"{spread} | {np.mean(shared):.1f} of {count}"


def learned(runs: Sequence[Run]) -> dict[str, Weights]:
    """The weights that each step learned, by seed."""
    found: dict[str, Weights] = {}
    for run in runs:
        if run.weights:
            weights = {one.domain: one.last for one in run.weights}
            found.setdefault(run.folder.name, {})[run.seed] = weights
    return found


if __name__ == "__main__":
    main()
