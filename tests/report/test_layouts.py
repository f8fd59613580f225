from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.layouts import layout_tables
from tdro_lightning.report.paper_tables import read_paper_tables
from tdro_lightning.report.results import baseline_pairs, results_over_seeds
from tdro_lightning.report.tables import Table
from tests.report.folders import write_evaluated

BEIR = [name for name in read_paper_tables()["tables"]["11"]["sets"] if name != "cqadupstack"]
FORUMS = [f"cqadupstack/{name}" for name in ("android", "tex")]
LANGUAGES = read_paper_tables()["tables"]["10"]["sets"]


def layouts(folder: Path) -> tuple[Table, ...]:
    results = results_over_seeds(collect_runs([folder]))
    return layout_tables(results, baseline_pairs(results, "uniform"))


def rows(table: Table) -> list[list[str]]:
    return [[cell.text + cell.mark for cell in row] for row in table.rows]


def scores(names: list[str], level: float, seed: int) -> dict[str, list[float]]:
    draw = np.random.default_rng(seed)
    return {name: (level + draw.uniform(-0.02, 0.02, 12)).tolist() for name in names}


def test_one_model_on_its_own_sets(tmp_path: Path) -> None:
    names = ["nq", "g/a", "g/b"]
    write_evaluated(
        tmp_path,
        "run",
        {
            "bm25": scores(names, 0.5, 0),
            "uniform": scores(names, 0.4, 1),
            "top 70": scores(names, 0.6, 2),
            "reweighted": scores(names, 0.4, 3),
        },
    )
    full, summary = layouts(tmp_path)
    assert full.title == "nDCG@10 on 2 sets, in the layout of the paper's Tables 9 to 11"
    assert [column.title for column in full.columns] == ["Model", "nq", "g", "Avg", "Gain"]
    assert [column.note for column in full.columns] == [
        "",
        "12 queries",
        "24 queries",
        "2 sets",
        "",
    ]
    shown = rows(full)
    assert [row[0] for row in shown] == [
        "Measured here: without training", "bm25", "Measured here", "uniform", "top 70",
        "reweighted",
    ]  # fmt: skip
    top = shown[4]
    assert [cell[-1] for cell in top[1:4]] == ["*", "*", "*"]
    assert float(top[3][:-1]) == pytest.approx(60, abs=1)
    assert float(top[4]) == pytest.approx(20, abs=1)
    assert shown[3][4] == "–"
    assert not any("Published" in row[0] for row in shown)
    assert "Table 5" in summary.title
    assert [row[0] for row in rows(summary) if len(row) == 1] == [
        "Measured here: without training", "Measured here: baseline",
        "Measured here: dataset selection", "Measured here: reweighting and others",
    ]  # fmt: skip
    assert rows(summary)[5] == ["top 70", f"{top[3]} ({top[4]})"]


def test_models_on_the_paper_s_sets_stand_beside_its_rows(tmp_path: Path) -> None:
    for i, (model, gain) in enumerate((("Qwen1.5-0.5B", 0.1), ("Qwen1.5-1.8B", 0.05))):
        sets = [*BEIR, *FORUMS]
        own = {"uniform": scores(sets, 0.4, i), "top 70": scores(sets, 0.4 + gain, i + 5)}
        write_evaluated(tmp_path, "beir", own, model=f"Qwen/{model}", folder=f"beir{i}")
        asked = {"uniform": scores(LANGUAGES, 0.6, i), "top 70": scores(LANGUAGES, 0.6, i)}
        write_evaluated(
            tmp_path, "mkqa", asked, model=f"Qwen/{model}", folder=f"mkqa{i}", metric="accuracy@100"
        )
    mkqa, beir, summary = layouts(tmp_path)
    assert "Table 10" in mkqa.title
    assert "Table 11" in beir.title
    assert [column.title for column in beir.columns][1:4] == ["ArguAna", "CQADup", "C-FEVER"]
    shown = rows(beir)
    headings = [row[0] for row in shown if len(row) == 1]
    assert headings[0] == "Published (arXiv 2408.10613, Table 11)"
    assert headings[-2:] == ["Measured here: uniform", "Measured here: top 70"]
    assert [row[0] for row in shown[-2:]] == ["Qwen1.5-0.5B", "Qwen1.5-1.8B"]
    assert all(len(row) in (1, 18) for row in shown)
    assert [float(row[-1]) for row in shown[-2:]] == pytest.approx([10, 5], abs=0.5)
    assert beir.columns[2].note == "24 queries"
    # A mean over 15 sets, in which the forums are one.
    sets = collect_runs([tmp_path / "beir0"])[0].retrievers[0].sets
    run = {name: one.scores["ndcg@10"] for name, one in sets.items()}
    mean = np.mean([run[n] for n in BEIR] + [np.mean([run[n] for n in FORUMS])])
    assert shown[-5][-2] == f"{100 * mean:.1f}"
    assert "Table 3" in summary.title
    assert [(c.title, c.note) for c in summary.columns][1:] == [
        ("MKQA", "Accuracy@10"), ("MKQA", "Accuracy@100"), ("BeIR", "nDCG@10"),
    ]  # fmt: skip
    last = rows(summary)[-1]
    assert last[:3] == ["Average gain", "–", "0.0"]
    assert float(last[3]) == pytest.approx(7.5, abs=0.3)
    assert "whose stars come without a description" in summary.caption


def test_a_set_that_a_retriever_lacks_leaves_no_average(tmp_path: Path) -> None:
    write_evaluated(
        tmp_path, "run", {"uniform": scores(["a", "b"], 0.4, 0), "top 70": scores(["a"], 0.5, 1)}
    )
    shown = rows(layouts(tmp_path)[0])
    assert shown[-1][2:] == ["–", "–", "–"]


def test_no_retriever_makes_no_table() -> None:
    assert layout_tables([], []) == ()
