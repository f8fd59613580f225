"""The stage `decontaminate` as a user runs it, on made-up domains and sets."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.data.jsonl import read_rows, write_rows
from tests.damage import damages
from tests.made_up import rows, write_domain_option, write_domains

PLANTED = "The quiet harbour of Ystad was painted by many artists in the summer of 1907"
DOCUMENT = (
    "Ystad is a port in Skåne with a medieval church, a monastery and many old timber houses."
)
GIVEN = (
    "--config-dir=conf", "+experiment=decontaminate_tdro_mini", "domains=made", "benchmark=made",
    "run_dir=run",
)  # fmt: skip
UNJUDGED = "Nobody judged this long document about lighthouses, fog horns and harbour pilots."


def write_set(folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True)
    documents = {"d1": ("Ystad", DOCUMENT), "d2": ("", UNJUDGED)}
    write_rows(
        folder / "corpus.jsonl",
        [{"_id": i, "title": title, "text": text} for i, (title, text) in documents.items()],
    )
    queries = {"q1": PLANTED, "q2": "what is the capital of Skåne", "q3": "not in this split"}
    write_rows(folder / "queries.jsonl", [{"_id": i, "text": text} for i, text in queries.items()])
    lines = ["query-id\tcorpus-id\tscore", "q1\td1\t1", "q2\td1\t1", "q2\td2\t0"]
    (folder / "qrels/test.tsv").write_text("\n".join(lines) + "\n")


def plant(path: Path, changes: dict[int, dict[str, Any]]) -> None:
    made = [dict(row) for _, row in read_rows(path)]
    for number, change in changes.items():
        made[number] |= change
    write_rows(path, made)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_domain_option(tmp_path, write_domains(tmp_path / "rows", count=20))
    write_set(tmp_path / "sets/town")
    option = "root: sets\nsets: {town: {folder: town, split: test, prompt: Find it}}\n"
    (tmp_path / "conf/benchmark").mkdir()
    (tmp_path / "conf/benchmark/made.yaml").write_text(option)
    passage = {"docid": "x", "title": "YSTAD", "text": DOCUMENT.replace(",", " -")}
    good = rows("easy", 1, 4)[0]["negative_passages"][0]
    plant(
        tmp_path / "rows/easy.jsonl",
        {
            3: {"query": "By many artists the quiet harbor of Ystad was painted, summer of 1907!"},
            5: {"positive_passages": [passage]},
            7: {"negative_passages": [passage, good]},
        },
    )
    other = {"docid": "y", "title": "", "text": UNJUDGED.upper()}
    plant(tmp_path / "rows/hard.jsonl", {0: {"positive_passages": [other]}})
    return tmp_path


def test_planted_texts_are_dropped_and_reported(command, folder: Path) -> None:
    ended = command()
    assert ended.code == 0, ended.err
    report = json.loads((folder / "run/decontamination.json").read_text())
    assert report["evaluation"] == {"town": {"queries": 2, "documents": 2}}
    easy = report["domains"]["easy"]
    assert (easy["rows"], easy["kept"]) == (20, 18)
    assert easy["dropped_rows"] == {"query": 1, "no positive left": 1, "no negative left": 0}
    assert easy["dropped_passages"] == {"positive": 0, "negative": 1}
    assert easy["sets"] == {"town": {"query": 1, "positive": 1, "negative": 1}}
    assert report["domains"]["middle"]["kept"] == 20
    assert report["domains"]["hard"]["kept"] == 19
    before = {row["query_id"]: row for _, row in read_rows(folder / "rows/easy.jsonl")}
    kept = {row["query_id"]: row for _, row in read_rows(folder / "run/train/easy.jsonl")}
    assert before.keys() - kept.keys() == {"easy-3", "easy-5"}
    assert len(kept["easy-7"]["negative_passages"]) == 1
    assert all(kept[name] == before[name] for name in kept.keys() - {"easy-7"})
    page = (folder / "run/decontamination.md").read_text()
    assert "| easy | town | 2 | 2 | 1 | 1 | 1 |" in page
    assert "| all | 60 | 57 |" in page
    assert "easy" in ended.out
    assert "domains.root=run/train domains.hub=null" in ended.out
    lines = gzip.decompress((folder / "run/dropped/easy.jsonl.gz").read_bytes()).splitlines()
    first = json.loads(lines[0])
    assert first["matches"][0]["text"] == PLANTED
    assert first["matches"][0]["method"] == "minhash"
    record = json.loads((folder / "run/run.json").read_text())
    assert {"domain easy", "set town"} <= set(record["inputs"])


def test_only_relevant_documents_count_where_asked(command, folder: Path) -> None:
    assert command("decontaminate.documents=relevant").code == 0
    report = json.loads((folder / "run/decontamination.json").read_text())
    assert report["evaluation"] == {"town": {"queries": 2, "documents": 1}}
    assert [entry["kept"] for entry in report["domains"].values()] == [18, 20, 20]


def test_finished_domains_are_not_done_again(command, folder: Path) -> None:
    assert command("domains.only=[easy]").code == 0
    stamp = (folder / "run/train/easy.jsonl").stat().st_mtime_ns
    ended = command()
    assert "easy: finished before" in ended.out
    assert "middle: 20 of 20 rows kept" in ended.out
    assert (folder / "run/train/easy.jsonl").stat().st_mtime_ns == stamp
    report = (folder / "run/decontamination.json").read_bytes()
    ended = command()
    assert ended.out.count("finished before") == 3
    assert (folder / "run/decontamination.json").read_bytes() == report


def swap_counts(record: Path) -> None:
    record.write_bytes(dict(damages(record))["two values (int) swapped"])


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: plant(folder / "rows/easy.jsonl", {1: {"query": "something else"}}),
        lambda folder: (folder / "run/train/easy.jsonl").write_text(""),
        lambda folder: (folder / "run/dropped/easy.jsonl.gz").unlink(),
        lambda folder: swap_counts(folder / "run/domains/easy.json"),
    ],
    ids=["rows", "output", "list", "record"],
)
def test_what_has_changed_is_done_again(command, folder: Path, change) -> None:
    assert command().code == 0
    change(folder)
    ended = command()
    assert ended.code == 0, ended.err
    assert "easy: 18 of 20 rows kept" in ended.out
    assert ended.out.count("finished before") == 2
    assert "easy.json" in ended.out
    assert ended.out.count("made again") == 1


def test_another_evaluation_does_all_again(command, folder: Path) -> None:
    assert command().code == 0
    assert command("decontaminate.jaccard=1").out.count("finished before") == 0


def test_the_cleaned_rows_can_be_trained_on(command, folder: Path) -> None:
    assert command().code == 0
    ended = command("domains.root=run/train", "run_dir=again")
    report = json.loads((folder / "again/decontamination.json").read_text())
    assert all(entry["rows"] == entry["kept"] for entry in report["domains"].values()), ended.err


WRONG = {
    "bad rows to skip": (
        ["data.on_bad_row=skip"],
        "data.on_bad_row=skip is for training and stage=",
    ),
    "no benchmark": (["~benchmark"], "stage=decontaminate needs a benchmark: benchmark=NAME"),
    "documents": (["decontaminate.documents=some"], "decontaminate.documents='some' must be one"),
    "distance": (["decontaminate.simhash_distance=9"], "decontaminate.simhash_distance=9 must be"),
    "jaccard": (["decontaminate.jaccard=0.2"], "decontaminate.jaccard=0.2 must be from 0.6 to 1"),
    "domain": (["domains.only=[soft]"], "domains.only names ['soft']"),
    "no rows": (["domains.root=nowhere"], "nowhere/easy.jsonl: no such file"),
    "no set": (["benchmark.root=nowhere"], "nowhere/town"),
    "own input": (["domains.root=run/train"], "would be written over; choose another run_dir"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_settings_are_refused(command, folder: Path, kind: str) -> None:
    overrides, message = WRONG[kind]
    if kind == "own input":
        assert command().code == 0
    ended = command(*overrides)
    assert ended.code == (3 if kind in ("no rows", "no set") else 2)
    assert message in ended.err
    assert "Traceback" not in ended.err
