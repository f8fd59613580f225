"""The script that compares a study's steps over its seeds, on made-up runs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.report.folders import weights, write_evaluated, write_run

SCRIPT = Path(__file__).parents[2] / "experiments" / "compare_seeds.py"
rng = np.random.default_rng(0)
SCORES = {
    (step, seed): rng.uniform(low, low + 0.4, 30).round(3).tolist()
    for step, low in (("reference", 0.1), ("top70", 0.3), ("other", 0.1))
    for seed in (1, 2, 3)
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for (step, seed), scores in SCORES.items():
        chain = "two" if step == "other" else "one"
        label = "uniform" if step == "reference" else "top 70"
        write_evaluated(
            tmp_path / chain, f"{chain}/{step}", {label: {"nq": scores}}, seed=seed,
            folder=f"seed{seed}/{step}",
        )  # fmt: skip
    for step, values in (("tdro", (0.6, 0.3, 0.1)), ("again", (0.3, 0.6, 0.1))):
        for seed in (1, 2):
            a, b, c = values
            file = weights(a=a, b=b, c=c)
            write_run(
                tmp_path / "one", f"one/{step}", folder=f"seed{seed}/{step}", seed=seed,
                files={"weights": file},
            )  # fmt: skip
    return tmp_path


def printed(*arguments: str) -> list[list[str]]:
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=True
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_steps_are_compared_over_seeds_and_studies(study: Path) -> None:
    rows = printed(str(study / "one"), "reference", "--also", str(study / "two"))
    learned = {row[0]: row for row in rows if row[0] in ("tdro", "again")}
    assert learned["tdro"][1:] == ["6", "2.5", "1.00 (1.00 to 1.00)", "2.0 of 2", "a, b, c"]
    assert ["again", "tdro", "2", "0.50 (0.50 to 0.50)", "2.0 of 2"] in rows
    means = {key: 100 * np.mean(scores) for key, scores in SCORES.items()}
    gains = [means["top70", seed] - means["reference", seed] for seed in (1, 2, 3)]
    found = [row for row in rows if row[0] == "top70"]
    assert found[0][:2] == ["top70", "3"]
    assert found[1][6] == f"{np.mean(gains):+.1f}\\*"
    others = [means["other", seed] - means["reference", seed] for seed in (1, 2, 3)]
    each = [stats.ttest_1samp(values, 0).pvalue for values in (gains, others)]
    adjusted = min(1, 2 * each[0]) if each[0] <= each[1] else max(2 * each[1], each[0])
    p_value, _, seeds = found[2][7].replace("&lt;", "").partition(" ")
    assert seeds == "(3 seeds)"
    assert float(p_value) == pytest.approx(adjusted, abs=1e-4)


def test_a_set_that_is_not_the_same_is_not_compared(tmp_path: Path) -> None:
    for step, label, digit in (("reference", "uniform", "1"), ("top70", "top 70", "2")):
        scores = {label: {"nq": SCORES[step, 1], "fiqa": SCORES[step, 1]}}
        write_evaluated(
            tmp_path,
            f"one/{step}",
            scores,
            folder=step,
            sha256={"nq": digit * 64, "fiqa": "3" * 64},
        )
    rows = printed(str(tmp_path), "reference")
    assert rows[4][4:] == ["fiqa"]
    assert [row[2] for row in rows if row[:2] == ["top70", "reference"]] == ["1"]


def test_a_step_that_is_not_there_is_named(study: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(study / "one"), "nothing"], capture_output=True, text=True
    )
    assert ended.returncode == 2
    assert "no step nothing; there are" in ended.stderr
