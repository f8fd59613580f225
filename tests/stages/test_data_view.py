"""The data view by the real command, and in a report."""

import json
from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.data.example import passage_text
from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.files import write_checked_json
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseShape
from tests.fixtures.commands import Command
from tests.inspection.made_pairs import made_rows
from tests.made_up import tiny_model, write_domain_option
from tests.models.test_sparse_encoder import write_llama

GIVEN = ("--config-dir=conf", "domains=made")
HOSTILE = '<script>alert("x")</script> | ![a](http://b) \x1b[31m {{ 7 * 7 }} \u202e'
NAMES = ("clean", "dirty", "crossed", "small")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four domains: clean, with a fifth swapped, without a common word, and of three rows."""
    made = {
        "clean": made_rows()[0],
        "dirty": made_rows(swapped=0.2, seed=1)[0],
        "crossed": made_rows(language="other")[0],
        "small": made_rows(3)[0],
    }
    made["dirty"][0]["query"] = HOSTILE
    for name in NAMES:
        write_rows(tmp_path / "rows" / f"{name}.jsonl", made[name])
    write_domain_option(tmp_path, {name: {"file": f"{name}.jsonl"} for name in NAMES})
    return tmp_path


def view_of(folder: Path) -> dict:
    return json.loads((folder / "data_view.json").read_text())["domains"]


def test_the_dirty_domain_is_named_and_the_clean_one_is_not(command: Command, folder: Path) -> None:
    given = ("+experiment=validate", "data.negatives=3", "data.batch_size=64")
    ended = command(*given, "run_dir=runs/view")
    assert ended.code == 0, ended.err
    view = view_of(folder / "runs/view")
    verdicts = {name: one["mismatch"]["verdict"] for name, one in view.items()}
    assert verdicts == {
        "clean": "no sign", "dirty": "mismatched", "crossed": "unclear", "small": "unclear",
    }  # fmt: skip
    out = " ".join(ended.out.split())
    assert "Domain dirty: about " in out
    assert "transfer.drop=[dirty]" in out
    assert "Domain clean" not in out
    assert "belong to their queries: crossed, small." in out
    assert "validate.encoder=FOLDER" in out
    assert len(view["dirty"]["worst"]) == 10
    wrong = made_rows(swapped=0.2, seed=1)[1]
    assert len(wrong & {row["line"] for row in view["dirty"]["worst"]}) >= 9
    found = json.loads((folder / "runs/view/validation.json").read_text())
    assert {name: one["usable"] for name, one in found.items()} == {
        "clean": 300, "dirty": 300, "crossed": 300, "small": 3,
    }  # fmt: skip
    assert command(*given, "run_dir=again").code == 0
    assert (folder / "again/data_view.json").read_bytes() == (
        folder / "runs/view/data_view.json"
    ).read_bytes()

    ended = command("+experiment=report", "report.runs=[runs]", "run_dir=page")
    assert ended.code == 0, ended.err
    for name in ("report.html", "report.md"):
        page = (folder / "page" / name).read_text()
        assert "Data view" in page
        assert "Domain dirty: about " in page
        assert "Worst rows of dirty" in page
        assert not [mark for mark in ("<script>", "\x1b", "\u202e", "](http") if mark in page]


def test_a_sample_says_so_and_rows_that_cannot_be_read_are_passed_over(
    command: Command, folder: Path
) -> None:
    path = folder / "rows/dirty.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    lines[7] = "{broken\n"
    row = json.loads(lines[8])
    lines[8] = json.dumps({**row, "negative_passages": []}) + "\n"
    path.write_text("".join(lines) + lines[9].replace('"q9"', '"again"'))
    (folder / "rows/clean.jsonl").unlink()
    ended = command("+experiment=validate", "validate.rows=100", "run_dir=run")
    assert ended.code == 3  # as without the view
    view = view_of(folder / "run")
    assert "no such file" in view["clean"]["unreadable"]
    assert (view["dirty"]["rows"], view["dirty"]["looked_at"]) == (300, 100)
    assert view["dirty"]["duplicates"] == {"exact": 1, "normalised": 1}
    assert view["dirty"]["mismatch"]["verdict"] == "mismatched"
    page = (folder / "run/validation.md").read_text()
    assert "100 drawn at random of a larger domain" in page
    assert "Domain clean is not in the data view: " in page


def test_an_encoder_scores_the_pairs(command: Command, folder: Path) -> None:
    """An untrained one sees nothing of use, and the view says so."""
    model = tiny_model(folder / "model")
    ended = command(
        "+experiment=validate", f"validate.encoder={model}", "validate.rows=60", "model.lora=null",
        "domains.only=[clean]", "data.query_tokens=32", "data.passage_tokens=32", "run_dir=run",
        "data.negatives=3",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    record = json.loads((folder / "run/run.json").read_text())
    assert record["inputs"]["encoder"]["sha256"]
    found = view_of(folder / "run")["clean"]["mismatch"]
    assert found["judged"] == found["positives"] == 60
    assert 0 <= found["least"] <= found["share"] <= 1


def test_a_sparse_encoder_scores_the_pairs_as_its_vectors_do(
    command: Command, folder: Path
) -> None:
    """The share is worked out again from products of the saved encoder's vectors."""
    encoder = load_encoder(
        write_llama(folder / "model", tied=True), pooling="last", query_tokens=200,
        passage_tokens=200, sparse=SparseShape(),
    )  # fmt: skip
    encoder.save(folder / "sparse")
    ended = command(
        "+experiment=validate", f"validate.encoder={folder / 'sparse'}", "model.lora=null",
        "domains.only=[clean,small]", "data.query_tokens=200", "data.passage_tokens=200",
        "run_dir=run", "data.negatives=3",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "its folder has a sparse head, which holds" in ended.out
    view = view_of(folder / "run")
    found = view["clean"]["mismatch"]
    assert found["judged"] == found["positives"] == 300
    assert view["small"]["mismatch"]["verdict"] == "unclear"
    rows = [json.loads(line) for line in (folder / "rows/clean.jsonl").read_text().splitlines()]
    q = encoder.embed_queries([row["query"] for row in rows], "Find it").toarray()
    d = encoder.embed_passages([passage_text(row["positive_passages"][0]) for row in rows])
    scores = q.astype(np.float64) @ d.toarray().astype(np.float64).T
    scores -= scores.mean(axis=0)
    own = scores.diagonal()[:, None]
    ranks = ((scores < own).sum(1) + 0.5 * ((scores == own).sum(1) - 1)) / (len(rows) - 1)
    expected = min(1.0, *(np.mean(ranks < part) / part for part in (0.25, 0.5)))
    assert found["share"] == pytest.approx(expected, abs=0.02)


def test_a_run_without_a_view_is_reported_as_before(command: Command, folder: Path) -> None:
    assert command("+experiment=validate", "domains.only=[small]", "run_dir=runs/old").code == 0
    record = json.loads((folder / "runs/old/run.json").read_text())
    del record["outputs"]["data_view.json"]
    write_checked_json(folder / "runs/old/run.json", record)
    (folder / "runs/old/data_view.json").unlink()
    assert command("+experiment=report", "report.runs=[runs]", "run_dir=page").code == 0
    assert "Data view" not in (folder / "page/report.html").read_text()
