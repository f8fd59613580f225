import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tdro_lightning.errors import DataError
from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.gains import (
    BaselineComparison,
    compare_with_baselines,
    compare_with_each,
    group_sets,
    query_scores,
)
from tdro_lightning.report.results import baseline_pairs, results_over_seeds
from tdro_lightning.report.significance import holm
from tdro_lightning.report.significance_file import comparisons_as_json
from tests.report.folders import metrics, write_evaluated, write_run

rng = np.random.default_rng(0)
BASE = {name: rng.uniform(0.2, 0.5, 40).round(3).tolist() for name in ("nq", "g/one", "g/two")}
BETTER = {
    name: (np.array(scores) + rng.uniform(-0.05, 0.15, 40)).round(3).tolist()
    for name, scores in BASE.items()
}


def comparisons(folder: Path, metric: str = "ndcg@10") -> list[BaselineComparison]:
    return compare_with_baselines(
        baseline_pairs(results_over_seeds(collect_runs([folder])), "uniform"), metric
    )


def means(scores: dict[str, list[float]]) -> dict[str, float]:
    return {name: 100 * float(np.mean(values)) for name, values in scores.items()}


def test_gains_and_p_values_by_set_and_on_average(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "run", {"uniform": BASE, "top 70": BETTER})
    (found,) = comparisons(tmp_path)
    base, better = means(BASE), means(BETTER)
    gains = {name: better[name] - base[name] for name in base}
    assert list(found.sets) == ["nq", "g"]
    assert found.sets["nq"].difference == pytest.approx(gains["nq"])
    assert found.sets["g"].difference == pytest.approx((gains["g/one"] + gains["g/two"]) / 2)
    assert found.average.difference == pytest.approx(
        gains["nq"] / 2 + gains["g/one"] / 4 + gains["g/two"] / 4
    )
    assert found.average.baseline == pytest.approx(
        base["nq"] / 2 + base["g/one"] / 4 + base["g/two"] / 4
    )
    assert (found.sets["g"].queries, found.average.queries) == (80, 120)
    known = stats.ttest_rel(BETTER["nq"], BASE["nq"])
    tests = [gain.test for gain in found.sets.values()]
    assert tests[0].t_test == pytest.approx(known.pvalue)
    ends = [100 * end for end in known.confidence_interval(0.95)]
    assert (tests[0].low, tests[0].high) == pytest.approx(tuple(ends))
    assert [gain.randomisation for gain in found.sets.values()] == holm(
        [test.randomisation for test in tests]
    )
    assert [gain.mark for gain in found.sets.values()] == ["*", "*"]
    assert found.over_seeds is None


def test_a_loss_is_marked_and_noise_is_not(tmp_path: Path) -> None:
    noise = {name: list(np.roll(scores, 1)) for name, scores in BASE.items()}
    write_evaluated(tmp_path, "run", {"uniform": BETTER, "worse": BASE})
    (worse,) = comparisons(tmp_path)
    assert (worse.average.mark, worse.average.difference < 0) == ("†", True)
    write_evaluated(tmp_path / "other", "run", {"uniform": BASE, "same": noise})
    (same,) = comparisons(tmp_path / "other")
    assert [gain.mark for gain in (same.average, *same.sets.values())] == ["", "", ""]


def test_averages_are_adjusted_over_the_results(tmp_path: Path) -> None:
    noise = {name: list(np.roll(scores, 3)) for name, scores in BASE.items()}
    write_evaluated(tmp_path, "run", {"uniform": BASE, "a": BETTER, "b": noise})
    found = comparisons(tmp_path)
    assert [one.average.randomisation for one in found] == holm(
        [one.average.test.randomisation for one in found]
    )


def test_both_baselines_are_compared_with_and_each_has_its_own_correction(tmp_path: Path) -> None:
    draw = np.random.default_rng(5)
    labelled = {"uniform": BASE, "proportional": BETTER} | {
        label: {n: (np.array(s) + draw.normal(0.01, 0.05, 40)).tolist() for n, s in BASE.items()}
        for label in ("a", "b", "c")
    }
    write_evaluated(tmp_path, "run", labelled)
    results = results_over_seeds(collect_runs([tmp_path]))
    found = compare_with_each(results, ["uniform", "proportional"], "ndcg@10")
    assert [(one.result.name, one.against) for one in found] == [
        ("uniform", "proportional"), ("proportional", "uniform"),
        *((label, against) for label in "abc" for against in ("uniform", "proportional")),
    ]  # fmt: skip

    def average(label: str) -> float:
        by_set = means(labelled[label])
        return by_set["nq"] / 2 + by_set["g/one"] / 4 + by_set["g/two"] / 4

    for one in found:
        assert one.average.difference == pytest.approx(
            average(one.result.label) - average(one.against)
        )
    for against in ("uniform", "proportional"):
        family = [one for one in found if one.against == against]
        own = [one.average.test.randomisation for one in family]
        assert [one.average.randomisation for one in family] == holm(own)
        pairs = baseline_pairs(results, against)
        alone = compare_with_baselines(pairs, "ndcg@10", None, results)
        assert [one.average for one in family] == [one.average for one in alone]
    assert compare_with_each(results, ["uniform", "run"], "ndcg@10") == [
        one for one in found if one.against == "uniform"
    ]  # of the run's name are several, so that none is meant


def test_a_baseline_of_two_names_is_compared_with_once(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "c/base", {"uniform": BASE})
    write_evaluated(tmp_path, "c/x", {"top 70": BETTER})
    results = results_over_seeds(collect_runs([tmp_path]))
    (one,) = compare_with_each(results, ["uniform", "base", "c/base"], "ndcg@10")
    assert one.against == "uniform"


def test_parts_of_a_group_are_compared_and_adjusted_apart(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "run", {"uniform": BASE, "top 70": BETTER})
    (found,) = comparisons(tmp_path)
    assert list(found.parts) == ["nq", "g/one", "g/two"]
    assert [gain.randomisation for gain in found.parts.values()] == holm(
        [gain.test.randomisation for gain in found.parts.values()]
    )
    for name, gain in found.parts.items():
        assert gain.difference == pytest.approx(means(BETTER)[name] - means(BASE)[name])


def test_queries_are_averaged_over_seeds_and_seeds_tested(tmp_path: Path) -> None:
    gains = {1: 0.05, 2: 0.02, 3: 0.06}
    for seed, gain in gains.items():
        base = {"nq": [0.1 * seed, 0.3, 0.2]}
        ours = {"nq": [score + gain * (1 + i) for i, score in enumerate(base["nq"])]}
        for step, label, scores in (("reference", "uniform", base), ("x", "top 70", ours)):
            write_evaluated(
                tmp_path, f"s/{step}", {label: scores}, seed=seed, folder=f"{seed}/{step}"
            )
    write_evaluated(tmp_path, "s/x", {"top 70": {"nq": [0.9] * 3}}, seed=4, folder="4/x")
    (found,) = comparisons(tmp_path)
    assert found.by_seed == pytest.approx({1: 10.0, 2: 4.0, 3: 12.0})  # seed 4 has no baseline
    assert found.average.difference == pytest.approx(26 / 3)
    each = 100 * np.mean([[gain * (1 + i) for i in range(3)] for gain in gains.values()], axis=0)
    assert found.average.test.t_test == pytest.approx(stats.ttest_1samp(each, 0).pvalue)
    assert found.over_seeds.t_test == pytest.approx(stats.ttest_1samp([10, 4, 12], 0).pvalue)
    assert found.seeds_t_test == found.over_seeds.t_test


def test_bm25_is_compared_with_every_seed_of_the_baseline(tmp_path: Path) -> None:
    for seed in (1, 2):
        scores = {"nq": [0.1 * seed, 0.2]}
        write_evaluated(tmp_path, "s/x", {"uniform": scores}, seed=seed, folder=f"{seed}")
    write_evaluated(tmp_path, "b", {"bm25": {"nq": [0.4, 0.4]}}, seed=42)
    (found,) = comparisons(tmp_path)
    assert found.by_seed == pytest.approx({1: 25.0, 2: 20.0})


def test_without_scores_of_queries_there_is_a_gain_and_no_test(tmp_path: Path) -> None:
    file = metrics(uniform={"nq": {"ndcg@10": 0.25}}, top={"nq": {"ndcg@10": 0.5}})
    write_run(tmp_path, "r", files={"metrics": file})
    (found,) = comparisons(tmp_path)
    assert (found.average.difference, found.average.test, found.average.mark) == (25.0, None, "")
    assert comparisons_as_json([found])[0]["average"]["test"] is None


def test_other_queries_cannot_be_paired(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "a", {"uniform": {"nq": [0.1, 0.2]}})
    write_evaluated(tmp_path, "b", {"top 70": {"nq": [0.1, 0.2, 0.3]}})
    with pytest.raises(DataError, match=r"nq\.json has other queries than .*same set"):
        comparisons(tmp_path)


def test_a_broken_file_of_scores_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nq.json"
    path.write_text(json.dumps({"q": {"mrr@10": 1}}))
    with pytest.raises(DataError, match=r"nq\.json: must map .* 'ndcg@10'"):
        query_scores(path, "ndcg@10")


def test_groups_are_named_before_the_slash() -> None:
    assert group_sets(["a", "b/x", "c", "b/y"]) == {"a": ["a"], "b": ["b/x", "b/y"], "c": ["c"]}
