"""The stage `mine` as a user runs it, checked against what encoders and texts themselves say."""

import contextlib
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.cli import main
from tdro_lightning.data.example import Row, passage_text
from tdro_lightning.data.jsonl import read_rows, write_rows
from tdro_lightning.mining import parts
from tdro_lightning.mining.miner import Miner
from tdro_lightning.models.cross_encoder import load_cross_encoder
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.search.bm25 import BM25, analyse
from tests.command import free_port
from tests.damage import damages
from tests.made_up import (
    cross_encoder_model,
    rows,
    tiny_model,
    write_domain_option,
    write_domains,
)
from tests.processes import in_processes

DOMAINS = ("easy", "hard", "middle")
SMALL = ("domains=made", "mine.input=rows", "mine.negatives=3", "mine.depth=12")
GIVEN = ("--config-dir=conf", "data.query_tokens=24", "data.passage_tokens=24", "run_dir=run")
DENSE = ("+experiment=mine_dense", "model=tiny", "model.path=model", *SMALL)
CORPUS = (
    *("+experiment=mine_corpus", "model=tiny", "model.path=model", *SMALL),
    *("mine.corpus=corpus.jsonl", "mine.teacher=cross"),
)


def without_docids(row: Row) -> Row:
    for field in ("positive_passages", "negative_passages"):
        row[field] = [passage | {"docid": ""} for passage in row[field]]
    return row


def pool_of(rows: list[Row]) -> list[str]:
    fields = ("positive_passages", "negative_passages")
    return sorted({text for row in rows for field in fields for text in texts(row[field])})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three domains, an encoder, a cross-encoder and a corpus."""
    folder = tmp_path_factory.mktemp("made")
    write_domain_option(folder, write_domains(folder / "rows"))
    for path in (folder / "rows").iterdir():  # a docid names one passage, theirs name many
        write_rows(path, [without_docids(row) for _, row in read_rows(path)])
    tiny_model(folder / "model")
    cross_encoder_model(folder / "cross")
    passages = {passage_text(p) for row in rows("corpus", 60, 3) for p in row["negative_passages"]}
    lines = [{"_id": f"c{i}", "title": "", "text": text} for i, text in enumerate(sorted(passages))]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def mined(folder: Path, name: str) -> list[Row]:
    return [row for _, row in read_rows(folder / "run/train" / f"{name}.jsonl.gz")]


def given(folder: Path, name: str) -> list[Row]:
    return [row for _, row in read_rows(folder / "rows" / f"{name}.jsonl")]


def content(folder: Path) -> dict:
    return {p.name: p.read_bytes() for p in sorted((folder / "run/train").iterdir())}


def texts(passages: list) -> list[str]:
    return [passage_text(passage) for passage in passages]


def near(one: str, other: str) -> bool:
    """Near-duplicates by their definition, written down once more."""
    a, b = analyse(one), analyse(other)
    runs = [a == b[i : i + len(a)] for i in range(len(b))] + [
        b == a[i : i + len(b)] for i in range(len(a))
    ]
    return any(runs) or len(set(a) & set(b)) / len(set(a) | set(b)) >= 0.8


def eligible(row: Row, everyone: list[Row], passage: str) -> bool:
    same = [r for r in everyone if r["query"].lower() == row["query"].lower()]
    positives = [text for r in same for text in texts(r["positive_passages"])]
    return passage not in positives and not any(near(passage, p) for p in positives)


def test_bm25_negatives_are_the_best_eligible_hits(command, folder: Path) -> None:
    for name in ("rows", "run/train"):  # as killed commands leave them
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / ".easy.jsonl.gz.7.tmp").write_bytes(b"broken off")
    ended = command("+experiment=mine_bm25", *SMALL, "mine.skip=1")
    assert ended.code == 0, ended.err
    report = json.loads((folder / "run/mining.json").read_text())
    assert report["settings"]["skip"] == 1
    assert list(report["domains"]) == list(DOMAINS)
    for name in DOMAINS:
        assert name in ended.out
        before, after = given(folder, name), mined(folder, name)
        pool = pool_of(before)
        _, places = BM25(pool).search([r["query"] for r in before], 12)
        drawn = 0
        for row, new, found in zip(before, after, places, strict=True):
            assert new | {"negative_passages": 0} == row | {"negative_passages": 0}
            window = [pool[place] for place in found[1:] if place >= 0]
            expected = [text for text in window if eligible(row, before, text)][:3]
            assert texts(new["negative_passages"])[: len(expected)] == expected
            assert all(eligible(row, before, t) for t in texts(new["negative_passages"]))
            drawn += 3 - len(expected)
        counts = report["domains"][name]
        assert (counts["rows"], counts["pool"], counts["random"]) == (40, len(pool), drawn)
        assert counts["searched"] == 120 - drawn
    record = json.loads((folder / "run/run.json").read_text())
    assert record["status"] == "finished"
    assert {"rows easy.jsonl", "rows hard.jsonl", "rows middle.jsonl"} == set(record["inputs"])


def test_finished_domains_are_not_mined_again(command, folder: Path) -> None:
    assert command("+experiment=mine_bm25", *SMALL).code == 0
    first = content(folder)
    write_rows(folder / "rows/hard.jsonl", rows("harder", 30, 1))
    (folder / "run/train/middle.jsonl.gz").write_bytes(b"broken")
    ended = command("+experiment=mine_bm25", *SMALL)
    assert ended.code == 0, ended.err
    assert "easy: finished before" in ended.out
    assert "hard: 30 rows mined" in ended.out
    assert "middle: 40 rows mined" in ended.out
    second = content(folder)
    assert [first[name] == second[name] for name in sorted(first)] == [True, False, True]
    ended = command("+experiment=mine_bm25", *SMALL, "seed=7")
    assert "finished before" not in ended.out
    assert ended.out.count("was made with another seed; made again") == 3
    report = (folder / "run/mining.json").read_bytes()
    record = folder / "run/domains/easy.json"
    record.write_bytes(dict(damages(record))["two values (int) swapped"])
    ended = command("+experiment=mine_bm25", *SMALL, "seed=7")
    assert "run/domains/easy.json: was changed after it was written" in ended.out
    assert ended.out.count("finished before") == 2
    assert (folder / "run/mining.json").read_bytes() == report
    assert not (folder / "run/unfinished").exists()


def encoder(folder: Path) -> Encoder:
    return load_encoder(
        str(folder / "model"), pooling="mean", query_tokens=24, passage_tokens=24
    ).eval()


def test_an_encoder_s_negatives_keep_the_limits(command, folder: Path) -> None:
    ended = command(*DENSE, "mine.ratio=0.99", "mine.max_score=0.65")
    assert ended.code == 0, ended.err
    model = encoder(folder)
    report = json.loads((folder / "run/mining.json").read_text())["domains"]
    assert sum(report[name].get("skipped_ratio", 0) for name in DOMAINS) > 0
    assert sum(report[name].get("skipped_max_score", 0) for name in DOMAINS) > 0
    for name in DOMAINS:
        before = given(folder, name)
        after = {row["query_id"]: row for row in mined(folder, name)}
        pool = pool_of(before)
        vectors = model.embed_passages(pool)
        queries = model.embed_queries([r["query"] for r in before], "Find it")
        assert len(after) == 40 - report[name].get("without", 0)
        for row, scores in zip(before, queries @ vectors.T, strict=True):
            positive = scores[pool.index(texts(row["positive_passages"])[0])]
            allowed = min(0.99 * positive, 0.65)
            window = np.argsort(-scores)[:12]
            expected = [
                pool[place]
                for place in window
                if scores[place] <= allowed and eligible(row, before, pool[place])
            ][:3]
            negatives = texts(after[row["query_id"]]["negative_passages"]) if expected else []
            assert negatives[: len(expected)] == expected
            assert all(scores[pool.index(text)] <= allowed + 1e-6 for text in negatives)


def test_a_corpus_with_a_cross_encoder_s_scores(command, folder: Path) -> None:
    ended = command(*CORPUS, "mine.margin=0.05")
    assert ended.code == 0, ended.err
    model = load_cross_encoder(str(folder / "cross"), max_tokens=48)
    lines = map(json.loads, (folder / "corpus.jsonl").read_text().splitlines())
    corpus = {line["_id"]: line["text"] for line in lines}
    seen = 0
    for name in DOMAINS:
        for row in mined(folder, name):
            passages = [*row["positive_passages"], *row["negative_passages"]]
            scores = model.score([row["query"]] * len(passages), texts(passages))
            np.testing.assert_allclose([p["score"] for p in passages], scores, atol=1e-5)
            positives = len(row["positive_passages"])
            assert max(scores[positives:]) <= min(scores[:positives]) - 0.05 + 1e-5
            for passage in row["negative_passages"]:
                assert corpus[passage["docid"]] == passage["text"]
                seen += 1
    assert seen > 50
    counts = json.loads((folder / "run/mining.json").read_text())["domains"]["hard"]
    assert counts["pool"] == len(corpus)
    assert counts["skipped_margin"] > 0
    ended = command(*CORPUS, "mine.margin=0.05")
    assert ended.out.count("finished before") == 3


@pytest.mark.parametrize("corpus", ["corpus.jsonl", "null"])
def test_an_encoder_can_be_the_teacher(command, folder: Path, corpus: str) -> None:
    tiny_model(folder / "other", seed=5)
    given_corpus = f"mine.corpus={corpus}"
    ended = command(*CORPUS, given_corpus, "mine.teacher=other", "mine.margin=null")
    assert ended.code == 0, ended.err
    other = load_encoder(
        str(folder / "other"), pooling="mean", query_tokens=24, passage_tokens=24
    ).eval()
    for row in mined(folder, "middle")[:10]:
        passages = [*row["positive_passages"], *row["negative_passages"]]
        assert len(passages) == 4
        query = other.embed_queries([row["query"]], "Find it")[0]
        expected = other.embed_passages(texts(passages)) @ query
        np.testing.assert_allclose([p["score"] for p in passages], expected, atol=1e-5)


def work(number: int, folder: Path, port: int, arguments: list[str]) -> None:
    """One of two processes that run a command; it keeps the rows that it mines."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": "2"}
    os.chdir(folder)
    asked: list[int] = []
    choose = Miner.choose

    def counted(self: Miner, numbers: range, hits: tuple) -> tuple:
        asked.append(numbers[0])
        return choose(self, numbers, hits)

    Miner.choose = counted  # type: ignore[method-assign]
    parts.PART_ROWS = 8
    sys.argv = ["tdro_lightning", *arguments]
    with (folder / f"{number}.out").open("w") as out, contextlib.redirect_stdout(out):
        main()
    (folder / f"{number}.json").write_text(json.dumps(asked))


def test_two_processes_share_the_rows(command, folder: Path) -> None:
    assert command(*DENSE).code == 0
    alone = content(folder)
    shutil.rmtree(folder / "run")
    in_processes(2, work, folder, free_port(), [*GIVEN, *DENSE])
    assert content(folder) == alone
    printed = [(folder / f"{number}.out").read_text() for number in range(2)]
    assert [text.count("easy: 40 rows mined") for text in printed] == [1, 0]
    asked = [json.loads((folder / f"{number}.json").read_text()) for number in range(2)]
    assert asked == [[0, 16, 32] * 3, [8, 24] * 3]


@pytest.mark.parametrize(
    ("code", "overrides", "message"),
    [
        (2, ("mine.depth=2",), "mine.depth=2 less mine.skip=2 (0 or more) must be at least"),
        (2, ("mine.ratio=2",), "mine.ratio=2.0 must be above 0 and at most 1"),
        (2, ("mine.index=hnsw",), "mine.index='hnsw' must be one of exact, ivf"),
        (2, ("mine.index=ivf",), "mine.index=ivf needs an encoder"),
        (3, ("mine.input=nowhere",), "mine.input=nowhere: no such folder"),
        (3, ("mine.corpus=nowhere.jsonl",), "mine.corpus=nowhere.jsonl: no such file"),
        (3, ("mine.corpus=conf/domains/made.yaml",), "made.yaml:1: not valid JSON"),
        (3, ("mine.teacher=nowhere/at/all",), "nowhere/at/all: no such folder"),
        (3, ("mine.negatives=99", "mine.depth=200"), "hard.jsonl: query_id"),
        (2, ("mine.encoder=model", "domains=tdro_mini"), "easy is no file of domains.catalogue"),
        (3, ("mine.input=run/train", "mine.depth=9"), "no .jsonl or .jsonl.gz file"),
    ],
)
def test_wrong_settings_are_refused(
    command, folder: Path, code: int, overrides: tuple[str, ...], message: str
) -> None:
    (folder / "run/train").mkdir(parents=True)
    if "hard" in message:
        (folder / "rows/easy.jsonl").unlink()
        write_rows(folder / "rows/hard.jsonl", rows("hard", 5, 0))
    ended = command(
        *("+experiment=mine_bm25", "domains=made", "mine.input=rows", "mine.negatives=3"),
        *("model=tiny", "model.path=model", *overrides),
    )  # fmt: skip
    assert ended.code == code
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_rows_are_not_written_over(command, folder: Path) -> None:
    shutil.move(folder / "rows", folder / "run/train")
    for path in list((folder / "run/train").iterdir()):
        write_rows(path.with_suffix(".jsonl.gz"), [row for _, row in read_rows(path)])
        path.unlink()
    before = content(folder)
    ended = command("+experiment=mine_bm25", *SMALL, "mine.input=run/train")
    assert ended.code == 2
    assert "would be written over; choose another run_dir" in ended.err
    assert content(folder) == before
