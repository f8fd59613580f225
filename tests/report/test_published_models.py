"""Evaluated published models stand beside the printed rows of the same model."""

from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.page import write_report
from tdro_lightning.report.paper_tables import (
    ROWS,
    PublishedModel,
    printed_scores,
    published_model,
    read_paper_tables,
)
from tdro_lightning.report.published_models import published_tables
from tdro_lightning.report.results import results_over_seeds
from tdro_lightning.report.tables import Table
from tests.report.folders import write_evaluated

TABLES = read_paper_tables()["tables"]
BEIR = [name for name in TABLES["11"]["sets"] if name != "cqadupstack"]
FORUMS = [f"cqadupstack/{i}" for i in range(12)]
TOP70 = "tdro-llm/s2-tdro-Qwen1.5-0.5B-top70"
# Printed cells, copied from the paper.
QWEN05B_TOP70 = [48.7, 82.1, 45.4, 62.3, 48.9]
LLAMA_CURR_BEIR, MISTRAL_BASELINE_MKQA = 55.0, 72.8


def evaluated(
    root: Path, name: str, encoders: dict[str, str], sets: dict[str, float], **given: object
) -> Path:
    """A run of encoders that all have the same scores, {set: fraction}."""
    scores = {label: {one: [value] * 3 for one, value in sets.items()} for label in encoders}
    inputs = {f"encoder {k}": {"path": path, "sha256": None} for k, path in encoders.items()}
    return write_evaluated(root, name, scores, inputs=inputs, **given)  # type: ignore[arg-type]


def tables(*folders: Path) -> dict[str, Table]:
    found = published_tables(collect_runs(folders))
    return {table.title.rpartition(" ")[2]: table for table in found}


def rows(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_names_of_all_18() -> None:
    kinds = ("s0-baseline-{}", "s2-tdro-{}-top70", "s2-tdro-{}-curr")
    bases = [base for base in ROWS if not base.startswith("Meta")]
    found = [published_model(f"tdro-llm/{kind.format(base)}") for kind in kinds for base in bases]
    places = {(one.section, one.row) for one in found if one}
    expected = {(s["heading"], row["name"]) for s in TABLES["3"]["sections"] for row in s["rows"]}
    assert places == expected
    assert len(places) == len(found) == 18
    assert printed_scores("3", published_model(TOP70)) == QWEN05B_TOP70
    for name in ("s2-tdro-Llama-3-8B-curr", "s2-tdro-Meta-Llama-3-8B-curr"):
        assert printed_scores("3", published_model(name))[-1] == LLAMA_CURR_BEIR
    mistral = published_model("s0-baseline-Mistral-7B-v0.1")
    assert printed_scores("3", mistral)[3] == MISTRAL_BASELINE_MKQA


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("/data/s2-tdro-Qwen1.5-0.5B-top70", True),
        ("s2-tdro-Qwen1.5-0.5B-top70/", True),
        ("/c/models--tdro-llm--s2-tdro-Qwen1.5-0.5B-top70/snapshots/e0f1", True),
        ("runs/s2-tdro-Qwen1.5-0.5B-top70/encoder", False),
        ("tdro-llm/s2-tdro-Qwen1.5-0.5B", False),
        ("tdro-llm/s0-baseline-Qwen1.5-0.5B-top70", False),
        ("tdro-llm/s2-tdro-Qwen1x5-0.5B-top70", False),
        ("runs/top70/encoder", False),
        ("", False),
        (None, False),
    ],
)
def test_names_of_places(source: str | None, known: bool) -> None:
    expected = PublishedModel(
        TOP70.removeprefix("tdro-llm/"), "Qwen1.5-0.5B", "tDRO - Dataset Selection Top-70%",
        "Qwen-0.5B",
    )  # fmt: skip
    assert published_model(source) == (expected if known else None)


def test_a_few_sets(tmp_path: Path) -> None:
    run = evaluated(tmp_path, "few", {"mine": TOP70}, {"scifact": 0.7, "fiqa": 0.38, "own": 0.1})
    found = tables(run)
    assert list(found) == ["11"]
    printed = dict(
        zip(TABLES["11"]["columns"], printed_scores("11", published_model(TOP70)), strict=True)
    )
    assert [column.title for column in found["11"].columns] == ["Model", "FiQA", "SciFact"]
    assert rows(found["11"]) == [
        ["s2-tdro-Qwen1.5-0.5B-top70"],
        ["Printed", f"{printed['FiQA']:.1f}", f"{printed['SciFact']:.1f}"],
        ["Here", "38.0", "70.0"],
        ["Difference", f"{38 - printed['FiQA']:+.1f}", f"{70 - printed['SciFact']:+.1f}"],
    ]


def test_a_whole_benchmark_over_runs_of_several_models(tmp_path: Path) -> None:
    """Runs with one label, one name and one configured model: to each model its own sets."""
    values = dict(zip([*BEIR, *FORUMS], np.linspace(0.2, 0.8, 26).tolist(), strict=True))
    half = len(BEIR) // 2
    first = {name: values[name] for name in BEIR[:half]}
    second = {name: values[name] for name in [*BEIR[half:], *FORUMS]}
    mistral = "tdro-llm/s0-baseline-Mistral-7B-v0.1"
    for folder, source, sets in (
        ("a", TOP70, first),
        ("b", TOP70, second),
        ("c", mistral, second),
    ):
        evaluated(tmp_path, "published", {"model": source}, sets, folder=folder, model="Q/default")
    found = tables(tmp_path)
    assert list(found) == ["3", "11"]
    here = 100 * np.mean([*(values[n] for n in BEIR), np.mean([values[n] for n in FORUMS])])
    assert rows(found["3"]) == [
        ["s2-tdro-Qwen1.5-0.5B-top70"],
        ["Printed", "48.9"],
        ["Here", f"{here:.1f}"],
        ["Difference", f"{here - 48.9:+.1f}"],
    ]
    assert [(c.title, c.note) for c in found["3"].columns][1:] == [("BeIR", "nDCG@10")]
    shown = rows(found["11"])
    assert [row[0] for row in shown if len(row) == 1] == [
        "s2-tdro-Qwen1.5-0.5B-top70", "s0-baseline-Mistral-7B-v0.1",
    ]  # fmt: skip
    assert shown[2].count("–") == 0
    assert shown[6].count("–") == shown[7].count("–") == half
    models = {result.name: result.model for result in results_over_seeds(collect_runs([tmp_path]))}
    assert set(models.values()) == {"Qwen1.5-0.5B", "Mistral-7B-v0.1"}
    assert len(models) == 2


def test_parts_that_are_missing_leave_no_figure(tmp_path: Path) -> None:
    """Eleven of twelve forums are not the paper's column."""
    sets = dict.fromkeys([*BEIR, *FORUMS[1:]], 0.5)
    found = tables(evaluated(tmp_path, "run", {"x": TOP70}, sets))
    assert list(found) == ["11"]
    assert "CQADup" not in [column.title for column in found["11"].columns]
    assert len(rows(found["11"])[1]) == 15


def test_another_metric_is_no_figure(tmp_path: Path) -> None:
    run = evaluated(tmp_path, "run", {"x": TOP70}, {"scifact": 0.5}, metric="recall@100")
    assert tables(run) == {}


def test_a_set_that_was_measured_twice_stands_twice(tmp_path: Path) -> None:
    for folder, value in (("a", 0.5), ("b", 0.6)):
        evaluated(
            tmp_path, "run", {"x": TOP70}, {"scifact": value}, folder=folder, seed=int(value * 10)
        )
    shown = rows(tables(tmp_path)["11"])
    assert [row[1] for row in shown if row[0] == "Here"] == ["50.0", "60.0"]
    assert len({row[0] for row in shown if len(row) == 1}) == 2


def test_the_report_shows_it(tmp_path: Path) -> None:
    run = evaluated(tmp_path, "run", {"x": TOP70}, {"scifact": 0.5})
    text = write_report([run], tmp_path / "report", "Title")
    for page in (
        text,
        *((tmp_path / "report" / f"report.{kind}").read_text() for kind in ("md", "html")),
    ):
        assert "Published models beside the paper" in page
        assert "s2-tdro-Qwen1.5-0.5B-top70" in page.replace("\\", "")
    other = evaluated(tmp_path / "o", "run", {"x": "runs/top70/encoder"}, {"scifact": 0.5})
    assert "Published models" not in write_report([other], tmp_path / "again", "Title")
