"""Sets from the hub's cache, and sets whose files are missing or broken: what gets them."""

import json
from pathlib import Path

import huggingface_hub.constants
import pytest

from tests.evaluation.hub_copies import (
    write_beir,
    write_hub_lines,
    write_hub_tables,
    write_miracl,
    write_mkqa,
)
from tests.evaluation.sets.test_set_files import expected_ndcg, scores
from tests.fixtures.evaluation import without
from tests.made_hub import hub_cache, snapshot

REVISION = "d56462d0e63a25450459c4f213e49ffdb866f7f9"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, without the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_from_the_hub_by_name(evaluated, cache: Path, tmp_path: Path) -> None:
    home = cache / "datasets--mteb--scifact"
    write_hub_lines(home / "snapshots" / REVISION)
    (home / "refs").mkdir(parents=True)
    (home / "refs/main").write_text(REVISION)
    ended = evaluated("beir_fast", *without("beir_fast", "scifact"))
    assert (ended.code, ended.err) == (0, "")
    assert scores(tmp_path)["scifact"]["ndcg@10"] == pytest.approx(expected_ndcg())
    record = json.loads((tmp_path / "run/run.json").read_text())
    name = f"mteb/scifact@{REVISION}"
    expected = {"path": name, "sha256": None, "commit": REVISION}
    assert record["inputs"] == {"hub set scifact": expected}


def test_what_the_hub_does_not_give_ends_with_a_command(evaluated, cache: Path) -> None:
    ended = evaluated("miracl")
    assert ended.code == 3
    assert "miracl/miracl/miracl-v1.0-ar: not in the cache of the hub, and the hub" in ended.err
    assert ended.err.endswith(
        "this command gets it: "
        "hf download miracl/miracl --repo-type dataset --include 'miracl-v1.0-ar/*'\n"
    )


BEIR_REMEDY = (
    "this command gets it: hf download mteb/scifact --repo-type dataset "
    f"--revision {REVISION} --local-dir data/scifact\n"
)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("folder", "data/scifact: no such folder"),
        ("corpus.jsonl", "data/scifact/corpus.jsonl: no such file, nor corpus.jsonl.gz"),
        ("qrels/test.tsv", "data/scifact/qrels/test.tsv: no such file"),
        ("queries.jsonl", "data/scifact/queries.jsonl: no such file"),
        ("cut", "data/scifact/corpus.jsonl:3: not valid JSON"),
        ("half", "data/scifact/qrels/test.tsv:3: document 'd4' is not in the corpus, like 4 of 6"),
    ],
)
def test_a_broken_beir_set_ends_with_file_and_command(
    evaluated, tmp_path: Path, damage: str, message: str
) -> None:
    folder = tmp_path / "data/scifact"
    if damage != "folder":
        write_beir(folder)
    if damage == "cut":
        text = (folder / "corpus.jsonl").read_text()
        (folder / "corpus.jsonl").write_text(text[: text.index("d3") + 20])
    elif damage == "half":
        lines = (folder / "corpus.jsonl").read_text().splitlines(keepends=True)
        (folder / "corpus.jsonl").write_text("".join(lines[:3]))
    elif damage != "folder":
        (folder / damage).unlink()
    (tmp_path / "data").mkdir(exist_ok=True)
    ended = evaluated("beir_fast", "benchmark.root=data", *without("beir_fast", "scifact"))
    assert ended.code == 3
    assert ended.err.startswith(f"error: {message}")
    assert ended.err.endswith(BEIR_REMEDY)


def test_a_half_downloaded_copy_of_the_hub_s(evaluated, tmp_path: Path) -> None:
    write_hub_tables(tmp_path / "data/scifact")
    first = tmp_path / "data/scifact/corpus/corpus-00000-of-00002.parquet"
    only = ("benchmark.root=data", *without("beir_fast", "scifact"))
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    ended = evaluated("beir_fast", *only)
    assert ended.code == 3
    assert ended.err.startswith(f"error: {first}: cannot be read after row 0")
    assert ended.err.endswith(BEIR_REMEDY)
    first.unlink()
    ended = evaluated("beir_fast", *only)
    assert ended.err.startswith("error: data/scifact/corpus/corpus-00000-of-00002.parquet: no such")
    assert ended.err.endswith(BEIR_REMEDY)


@pytest.mark.parametrize(
    ("damage", "message", "remedy"),
    [
        (
            "miracl-corpus/miracl-corpus-v1.0-sw/docs-0.jsonl.gz",
            "data/miracl-corpus/miracl-corpus-v1.0-sw/docs-0.jsonl.gz: no such file",
            "miracl/miracl-corpus --repo-type dataset --include 'miracl-corpus-v1.0-sw/*' "
            "--local-dir data/miracl-corpus",
        ),
        (
            "miracl/miracl-v1.0-sw/topics/topics.miracl-v1.0-sw-dev.tsv",
            "data/miracl/miracl-v1.0-sw/topics/topics.miracl-v1.0-sw-dev.tsv: no such file",
            "miracl/miracl --repo-type dataset --include 'miracl-v1.0-sw/*' "
            "--local-dir data/miracl",
        ),
        (
            "last shard",
            "data/miracl/miracl-v1.0-sw/qrels/qrels.miracl-v1.0-sw-dev.tsv:4: document '7#d5' is "
            "not in the corpus, like 2 of 6 relevant ones; is the corpus whole?",
            "miracl/miracl-corpus --repo-type dataset --include 'miracl-corpus-v1.0-sw/*' "
            "--local-dir data/miracl-corpus",
        ),
        (
            "cut shard",
            "data/miracl-corpus/miracl-corpus-v1.0-sw/docs-1.jsonl.gz: damaged gzip file",
            "miracl/miracl-corpus --repo-type dataset --include 'miracl-corpus-v1.0-sw/*' "
            "--local-dir data/miracl-corpus",
        ),
    ],
)
def test_a_broken_miracl_ends_with_file_and_command(
    evaluated, tmp_path: Path, damage: str, message: str, remedy: str
) -> None:
    write_miracl(tmp_path / "data", "sw")
    last = tmp_path / "data/miracl-corpus/miracl-corpus-v1.0-sw/docs-1.jsonl.gz"
    if damage == "last shard":
        last.unlink()
    elif damage == "cut shard":
        last.write_bytes(last.read_bytes()[:-15])
    else:
        (tmp_path / "data" / damage).unlink()
    ended = evaluated("miracl", "benchmark.root=data", *without("miracl", "miracl-sw"))
    assert ended.code == 3
    assert ended.err.startswith(f"error: {message}")
    assert ended.err.endswith(f"this command gets it: hf download {remedy}\n")


def test_a_missing_mkqa_ends_with_file_and_command(evaluated, tmp_path: Path) -> None:
    write_mkqa(tmp_path / "data")
    (tmp_path / "data/mkqa/mkqa.jsonl.gz").unlink()
    ended = evaluated("mkqa", "benchmark.root=data")
    assert ended.code == 3
    assert ended.err == (
        "error: data/mkqa/mkqa.jsonl.gz: no such file\n"
        "this command gets it: hf download apple/mkqa --repo-type dataset "
        "--revision refs/convert/parquet --local-dir data/mkqa\n"
    )
    write_mkqa(tmp_path / "data")
    ended = evaluated("mkqa", "benchmark.root=data", "benchmark.sets.mkqa-ar.language=xx")
    assert "mkqa.jsonl.gz:1: `queries` lacks the language 'ar'; it has en, de" not in ended.err
    assert "mkqa.jsonl.gz:1: `queries` lacks the language 'xx'; it has en, de" in ended.err


def test_a_set_that_is_on_no_hub_names_the_key(evaluated, tmp_path: Path) -> None:
    ended = evaluated("tdro_mini", "benchmark.root=data")
    assert ended.code == 3
    assert ended.err == (
        "error: data/agnews_heldout: no such folder\n"
        "benchmark.root must be the folder that holds the folder agnews_heldout\n"
    )
    ended = evaluated("tdro_mini", "benchmark.root=null")
    assert ended.err.startswith("error: benchmark.sets.agnews_heldout: the set needs `hub`")


def test_a_set_that_changed_in_the_hub_s_cache_is_refused(
    evaluated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hub_lines(tmp_path / "set")
    paths = [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    files = {str(path.relative_to(tmp_path / "set")): path.read_bytes() for path in paths}
    blobs = snapshot(hub_cache(tmp_path / "hub", monkeypatch), "mteb/scifact", files)
    only = without("beir_fast", "scifact")
    assert evaluated("beir_fast", *only).code == 0
    blob = blobs["qrels/test.jsonl"]
    blob.write_bytes(blob.read_bytes().replace(b'"score": 2', b'"score": 1', 1))
    ended = evaluated("beir_fast", *only, "run_dir=again")
    assert ended.code == 3
    assert f"is not as the hub gave it; delete {blob}, and it is downloaded" in ended.err
