from pathlib import Path

import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.inspection.matches import LexicalMatcher
from tdro_lightning.inspection.view import domain_view
from tdro_lightning.report.collect import read_run
from tdro_lightning.report.data_view import view_tables, view_warnings
from tdro_lightning.report.sections import view_section
from tests.inspection.made_pairs import made_rows
from tests.inspection.test_view import sample_of
from tests.report.folders import write_run


def content(**rows: list) -> dict:
    counted = {"rows": 5000, "duplicates": {"exact": 1, "normalised": 2}}
    return {
        "format": 1, "scorer": "BM25", "rows": 1000, "batch_size": 4, "negatives": 1,
        "domains": {
            name: counted | domain_view(sample_of(own), LexicalMatcher())
            for name, own in rows.items()
        },
    }  # fmt: skip


def test_tables_hold_the_counts() -> None:
    view = content(clean=made_rows(100)[0], dirty=made_rows(100, swapped=0.3)[0])
    texts, pairs, *worst = view_tables(view, "place")
    assert [[cell.text for cell in row][:3] for row in texts.rows] == [
        ["clean", "5,000", "100"], ["dirty", "5,000", "100"],
    ]  # fmt: skip
    assert texts.rows[0][-1].text == "38 %"
    assert [row[-1].text for row in pairs.rows] == ["no sign", "look at it"]
    assert [table.title for table in worst] == ["Worst rows of clean", "Worst rows of dirty"]
    assert all(len(row) == len(t.columns) for t in (texts, pairs, *worst) for row in t.rows)
    (warning,) = view_warnings(view)
    assert warning.startswith("Domain dirty: about ")


def test_a_report_folds_the_worst_rows(tmp_path: Path) -> None:
    view = content(clean=made_rows(100)[0])
    run = read_run(write_run(tmp_path, "validate", stage="validate", files={"data_view": view}))
    section = view_section([run])
    assert [(len(block.tables), block.folded) for block in section.blocks] == [
        (2, False),
        (1, True),
    ]
    assert view_section([read_run(write_run(tmp_path, "bare"))]).blocks == ()
    half = write_run(tmp_path, "half", stage="validate", status="failed", files={"data_view": view})
    assert read_run(half).view == {}


def test_domains_that_cannot_be_read_have_no_row() -> None:
    view = content() | {"domains": {"a": {"rows": 0, "unreadable": "a.jsonl: no such file"}}}
    assert view_tables(view, "place") == ()
    assert view_warnings(view) == ["Domain a is not in the data view: a.jsonl: no such file."]


@pytest.mark.parametrize(
    "broken", [[], {"domains": []}, {"domains": {"a": {}}}, {"domains": {"a": 3}}]
)
def test_a_broken_view_is_refused(tmp_path: Path, broken: object) -> None:
    run = write_run(tmp_path, "validate", files={"data_view": broken})
    with pytest.raises(DataError, match=r"data_view\.json: not a data view"):
        read_run(run)
