from pathlib import Path

import pytest

from tdro_lightning.errors import ConfigError
from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.results import baseline_pairs, results_over_seeds
from tests.report.folders import write_evaluated

A, B = [0.1, 0.2], [0.3, 0.5]


def test_seeds_of_a_run_are_one_result(tmp_path: Path) -> None:
    for seed, scores in ((2, A), (1, B)):
        for step, label in (("reference", "uniform"), ("x", "top 70"), ("y", "top 70")):
            write_evaluated(
                tmp_path, f"study/{step}", {label: {"nq": scores}}, seed=seed,
                folder=f"seed{seed}/{step}", model=f"seed{seed}/model",
            )  # fmt: skip
    results = results_over_seeds(collect_runs([tmp_path]))
    assert [result.name for result in results] == ["uniform", "top 70 (x)", "top 70 (y)"]
    assert [list(result.by_seed) for result in results] == [[1, 2]] * 3
    assert {result.model for result in results} == {"model"}
    assert results[0].scores("nq", "ndcg@10") == pytest.approx([40.0, 15.0])
    assert results[0].score("nq", "ndcg@10") == pytest.approx(27.5)
    assert results[0].score("nq", "recall@100") is None


def test_a_duplicate_seed_makes_results_of_their_own(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_evaluated(tmp_path, "sweep", {"top 70": {"nq": A}}, folder=folder)
    names = [result.name for result in results_over_seeds(collect_runs([tmp_path]))]
    assert len(set(names)) == 2
    assert all(name.startswith("top 70 (sweep [") for name in names)


def test_evaluations_on_other_sets_are_one_result(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "evaluate", {"mine": {"nq": A}}, folder="a")
    write_evaluated(tmp_path, "evaluate", {"mine": {"fiqa": B}}, folder="b")
    (result,) = results_over_seeds(collect_runs([tmp_path]))
    assert result.common_sets("ndcg@10") == ["nq", "fiqa"]


def test_untrained_retrievers_with_the_same_scores_stand_once(tmp_path: Path) -> None:
    for name, scores in (("a", A), ("b", A), ("c", B)):
        write_evaluated(tmp_path, name, {"bm25": {"nq": scores}})
    assert [result.run for result in results_over_seeds(collect_runs([tmp_path]))] == ["a", "c"]


def pairs(folder: Path, baseline: str) -> dict[str, str]:
    found = baseline_pairs(results_over_seeds(collect_runs([folder])), baseline)
    return {result.name: other.run for result, other in found}


def test_a_result_meets_the_baseline_of_its_model_and_chain(tmp_path: Path) -> None:
    for chain, model in (("a", "small"), ("b", "small"), ("c", "large")):
        write_evaluated(tmp_path, f"{chain}/base", {"uniform": {"nq": A}}, model=model)
    write_evaluated(tmp_path, "a/x", {"top 70": {"nq": B}}, model="small")
    write_evaluated(tmp_path, "d/x", {"top 80": {"nq": B}}, model="large")
    write_evaluated(tmp_path, "d/y", {"top 90": {"nq": B}}, model="small")
    write_evaluated(tmp_path, "d/z", {"top 60": {"fiqa": B}}, model="large")
    # `top 90` could be meant against two baselines, and `top 60` has no set in common.
    assert pairs(tmp_path, "uniform") == {"top 70": "a/base", "top 80": "c/base"}
    named = pairs(tmp_path, "b/base")
    assert (named["top 70"], named["top 90"]) == ("b/base", "b/base")


def test_untrained_retrievers_meet_any_model_s_baseline(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "a", {"uniform": {"nq": A}}, model="small")
    write_evaluated(tmp_path, "b", {"bm25": {"nq": B}})
    assert pairs(tmp_path, "uniform") == {"bm25": "a"}
    assert pairs(tmp_path, "b") == {}  # what is trained has no baseline of its own model there


def test_of_several_baselines_the_one_of_the_same_runs_is_meant(tmp_path: Path) -> None:
    """A sweep over rules trains its own uniform mixture beside that which made the weights."""
    write_evaluated(tmp_path, "finetune_uniform", {"uniform": {"nq": A}})
    for number, label in enumerate(("uniform", "top 70")):
        write_evaluated(tmp_path, "mixture", {label: {"nq": B}}, folder=f"sweep/{number}")
    assert pairs(tmp_path, "uniform") == {"top 70": "mixture"}


def test_a_baseline_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "chain/x", {"top 70": {"nq": A}})
    assert pairs(tmp_path, "uniform") == {}
    with pytest.raises(ConfigError, match=r"report\.baselines: .* 'y'; there are chain/x, top 70"):
        pairs(tmp_path, "y")
