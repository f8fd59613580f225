"""How well a few sets of a benchmark rank retrievers as all of them do.

usage: python experiments/beir_fast/agreement.py SCORES SET,SET,...

SCORES is a JSON file of retriever to set to score. Labels `uniform MODEL`, `top70 MODEL` and
`reweighted MODEL` are one model under three trainings, whose gains over `uniform` are compared as
well. Without sets, every single set is shown.
"""

import json
import sys
from pathlib import Path

from scipy.stats import kendalltau, spearmanr

from tdro_lightning.evaluation.averages import mean_over_sets

Scores = dict[str, dict[str, float]]


def gains(averages: dict[str, float]) -> list[float]:
    """Differences from the uniform training of the same model."""
    pairs = [(name, name.partition(" ")) for name in averages]
    return [
        averages[name] - averages[f"uniform {model}"]
        for name, (training, _, model) in pairs
        if training in ("top70", "reweighted")
    ]


def agreement(scores: Scores, chosen: list[str]) -> str:
    """Rank correlations of the averages and of the gains, and the loss by picking the best."""
    part = {n: mean_over_sets({s: by_set[s] for s in chosen}) for n, by_set in scores.items()}
    whole = {name: mean_over_sets(by_set) for name, by_set in scores.items()}
    tau = kendalltau(list(part.values()), list(whole.values())).statistic
    rho = spearmanr(list(part.values()), list(whole.values())).statistic
    trained = [name for name in scores if name.startswith(("uniform", "top70", "reweighted"))]
    own = kendalltau([part[n] for n in trained], [whole[n] for n in trained]).statistic
    gain = spearmanr(gains(part), gains(whole)).statistic
    same = sum((a > 0) == (b > 0) for a, b in zip(gains(part), gains(whole), strict=True))
    lost = max(whole.values()) - whole[max(part, key=part.__getitem__)]
    return (
        f"{tau:.2f} | {rho:.2f} | {own:.2f} | {gain:.2f} | "
        f"{same} of {len(gains(part))} | {lost:.1f}"
    )


if __name__ == "__main__":
    scores: Scores = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    names = list(next(iter(scores.values())))
    groups = [sys.argv[2].split(",")] if len(sys.argv) > 2 else [[name] for name in names]
    print("sets | Kendall, all | Spearman, all | Kendall, trained | Spearman, gains | sign | lost")
    for chosen in groups:
        print(f"{', '.join(chosen)} | {agreement(scores, chosen)}")
