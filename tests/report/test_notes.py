import json
from pathlib import Path

import pytest

from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.gains import compare_with_baselines
from tdro_lightning.report.page import write_report
from tdro_lightning.report.results import baseline_pairs, results_over_seeds
from tests.report.folders import write_evaluated, write_run

BASE = [0.01 * (i % 7) for i in range(40)]
BETTER = [score + 0.02 for score in BASE]
BEST = [score + 0.1 for score in BASE]


def files(folder: Path) -> dict[str, str]:
    """What a report says, by place: the terminal and each file without its escapes."""
    shown = {"terminal": write_report([folder], folder / "out", "Notes")}
    for name in ("report.html", "report.md", "tables.tex", "significance.json"):
        text = (folder / "out" / name).read_text()
        for escaped in ("\\_", "\\%"):
            text = text.replace(escaped, escaped[1])
        shown[name] = text.replace("&lt;", "<")
    return shown


@pytest.mark.parametrize("status", ["stopped", "failed", "running", "interrupted", "time_limit"])
def test_a_run_that_has_not_finished_is_named(tmp_path: Path, status: str) -> None:
    write_evaluated(tmp_path, "c/base", {"uniform": {"nq": BASE}})
    write_run(tmp_path, "c/x", status=status)
    shown = files(tmp_path)
    line = f"Not finished, so scores and weights of these runs are left out: c/x ({status})."
    for place in shown.keys() - {"significance.json"}:
        assert line in shown[place], place


def test_a_run_without_any_result_says_why(tmp_path: Path) -> None:
    write_run(tmp_path, "c/x", status="failed")
    assert files(tmp_path)["terminal"].splitlines() == [
        "No evaluated retriever in these runs.",
        "Not finished, so scores and weights of these runs are left out: c/x (failed).",
    ]


def test_what_a_run_warned_of_is_in_the_report(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path, name, warnings=["the loss stands still", f"only of {name}"])
    shown = files(tmp_path)
    for place in ("terminal", "report.html", "report.md", "tables.tex"):
        assert "Warning of a, b: the loss stands still" in shown[place]
        assert "Warning of b: only of b" in shown[place]


def test_warnings_that_differ_in_their_share_are_one(tmp_path: Path) -> None:
    for number, share in enumerate([9, 62, 16, 9, 30, 11]):
        warning = f"data.query_tokens=64 cuts many texts: {share}% of them are as long as it allows"
        write_run(tmp_path, f"r{number}", warnings=[warning, "5% of 10% are", f"{share} rows"])
    shown = files(tmp_path)["terminal"]
    assert (
        "Warning of r0, r1, r2, r3 and 2 more: data.query_tokens=64 cuts many texts: 9% to 62% of "
        "them are as long as it allows"
    ) in " ".join(shown.split())
    assert shown.count("Warning of") == 2 + 5
    assert "Warning of r0, r3: 9 rows" in shown


def test_nothing_below_the_untrained_model_has_a_star(tmp_path: Path) -> None:
    """A collapsed baseline makes 1 nDCG a significant gain; the untrained model has more."""
    scores = {"uniform": {"nq": BASE, "fiqa": BASE}, "top 70": {"nq": BETTER, "fiqa": BEST}}
    write_evaluated(tmp_path, "c/x", scores, model="m")
    results = results_over_seeds(collect_runs([tmp_path]))
    (starred,) = compare_with_baselines(
        baseline_pairs(results, "uniform"), "ndcg@10", None, results
    )
    assert [gain.mark for gain in (starred.average, *starred.sets.values())] == ["*", "*", "*"]
    level = [score + 0.08 for score in BASE]
    for model in ("other", "m"):  # another model's untrained one says nothing
        assert "+6.0*" in files(tmp_path)["terminal"]
        write_evaluated(
            tmp_path, f"bare {model}", {"untrained": {"nq": level, "fiqa": level}}, model=model
        )
    results = results_over_seeds(collect_runs([tmp_path]))
    found = compare_with_baselines(baseline_pairs(results, "uniform"), "ndcg@10", None, results)
    (top,) = [one for one in found if one.result.trained]
    assert (top.average.randomisation or 1) < 0.05
    assert (top.average.mark, top.average.failed) == ("", True)
    assert {name: gain.mark for name, gain in top.sets.items()} == {"nq": "", "fiqa": "*"}
    shown = files(tmp_path)
    for place in shown.keys() - {"significance.json"}:
        assert "so training has failed: uniform, top 70." in shown[place]
        assert "+6.0*" not in shown[place]
    (tested,) = [o for o in json.loads(shown["significance.json"]) if o["retriever"] == "top 70"]
    assert (tested["average"]["below_untrained"], tested["average"]["mark"]) == (True, "")


def test_few_seeds_are_named_wherever_a_test_is_printed(tmp_path: Path) -> None:
    for seed in range(5):
        for step, label, scores in (("b", "uniform", BASE), ("x", "a", BEST), ("y", "few", BEST)):
            if label != "few" or seed < 3:
                moved = [score * (1 + 0.01 * seed) for score in scores]
                write_evaluated(
                    tmp_path, f"s/{step}", {label: {"nq": moved}}, seed=seed, folder=f"{step}{seed}"
                )
    line = "Fewer than 5 seeds stand behind few (3):"
    shown = files(tmp_path)
    counts = {place: text.count(line) for place, text in shown.items()}
    # Once a table or figure: average, each set, seeds, figure; full layout and its summary.
    assert counts == {
        "terminal": 1, "report.html": 6, "report.md": 6, "tables.tex": 5, "significance.json": 1,
    }  # fmt: skip
    assert "(3 seeds)" in shown["terminal"]
    assert "(5 seeds)" not in shown["terminal"]
    tested = {o["retriever"]: o["seeds"] for o in json.loads(shown["significance.json"])}
    assert (tested["a"]["count"], tested["a"]["warning"]) == (5, None)
    assert tested["few"]["count"] == 3
    assert tested["few"]["warning"].startswith(line)


def test_the_report_says_what_a_gain_table_lacks(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "c/x", {"bm25": {"nq": BEST}, "top70": {"nq": BASE}})
    shown = files(tmp_path)
    for place in shown.keys() - {"significance.json"}:
        assert "There is no table of gains (bm25, top70: no evaluated `uniform`" in shown[
            place
        ].replace("\\`", "`")
        assert "+experiment=finetune_uniform" in shown[place]


def test_a_usual_baseline_that_is_not_there_is_no_fault(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "c/x", {"proportional": {"nq": BASE}, "top 70": {"nq": BEST}})
    shown = files(tmp_path)
    assert "Without a gain" not in shown["terminal"]
    assert "no table of gains" not in shown["terminal"]
    (one,) = json.loads(shown["significance.json"])
    assert (one["retriever"], one["against"]) == ("top 70", "proportional")


def test_what_has_one_baseline_only_is_said_for_the_other(tmp_path: Path) -> None:
    scores = {label: {"nq": BASE} for label in ("uniform", "proportional")}
    write_evaluated(tmp_path, "c/x", scores, model="small")
    write_evaluated(tmp_path, "d/x", {"proportional": {"nq": BASE}}, model="large")
    write_evaluated(tmp_path, "d/y", {"top 70": {"nq": BEST}}, model="large")
    lines = files(tmp_path)["terminal"].splitlines()
    assert [line for line in lines if line.startswith("Without")] == [
        "Without a gain over uniform: proportional (large), top 70: no baseline of the model large."
    ]


def test_a_baseline_alone_has_nothing_to_gain(tmp_path: Path) -> None:
    write_evaluated(tmp_path, "c/x", {"uniform": {"nq": BEST}})
    assert "no table of gains: only the baseline is evaluated" in files(tmp_path)["terminal"]


def test_each_retriever_without_a_gain_has_its_reason(tmp_path: Path) -> None:
    for chain in ("a", "b"):
        write_evaluated(tmp_path, f"{chain}/base", {"uniform": {"nq": BASE}}, model="small")
    write_evaluated(tmp_path, "a/x", {"fits": {"nq": BEST}}, model="small")
    write_evaluated(tmp_path, "d/y", {"unsure": {"nq": BEST}}, model="small")
    write_evaluated(tmp_path, "d/z", {"alone": {"nq": BEST}}, model="large")
    write_evaluated(tmp_path, "d/w", {"elsewhere": {"fiqa": BEST}}, model="small")
    write_evaluated(tmp_path, "a/v", {"seed 7": {"nq": BEST}}, model="small", seed=7)
    (note,) = [s for s in files(tmp_path)["terminal"].splitlines() if s.startswith("Without a")]
    reasons = note.removeprefix("Without a gain over uniform: ").removesuffix(".")
    assert set(reasons.split("; ")) == {
        "unsure: several baselines fit (uniform (a/base), uniform (b/base))",
        "alone: no baseline of the model large",
        "elsewhere: no evaluation set in common with the baseline",
        "seed 7: no seed or metric in common with the baseline",
    }
