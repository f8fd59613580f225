"""Local copies of each published layout, evaluated by the command that evaluates the real ones."""

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import yaml

from tdro_lightning.evaluation.evaluate import Lexical
from tdro_lightning.evaluation.places import Place
from tdro_lightning.evaluation.published import PublishedSet, lazy_sets
from tdro_lightning.retrieval.bm25 import BM25
from tests.command import Ended, run
from tests.evaluation.hub_copies import (
    DOCUMENTS,
    GRADES,
    QUERIES,
    write_beir,
    write_hub_lines,
    write_hub_tables,
    write_miracl,
    write_mkqa,
    write_mkqa_tables,
)

REVISION = "d56462d0e63a25450459c4f213e49ffdb866f7f9"
FORUMS = (
    *("android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats"),
    *("tex", "unix", "webmasters", "wordpress"),
)


@pytest.fixture
def evaluated(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ended]:
    """Evaluate BM25 on a benchmark below `data`, or on the hub's cache in `cache`."""

    def start(benchmark: str, *overrides: str) -> Ended:
        given = ("+experiment=evaluate", f"benchmark={benchmark}", "run_dir=run", *overrides)
        return run(capfd, tmp_path, *given)

    return start


def shipped(benchmark: str) -> list[str]:
    """Names of a benchmark's sets."""
    path = Path(__file__).parents[2] / f"conf/benchmark/{benchmark}.yaml"
    return list(yaml.safe_load(path.read_text())["sets"])


def without(benchmark: str, *kept: str) -> list[str]:
    """Overrides that leave a few sets of a benchmark."""
    return [f"~benchmark.sets.{one}" for one in shipped(benchmark) if one not in kept]


def scores(tmp_path: Path) -> dict[str, dict[str, float]]:
    found = json.loads((tmp_path / "run/metrics.json").read_text())["retrievers"]["bm25"]
    return found["sets"] | {"average": found["average"]}


def texts() -> list[str]:
    return [f"{d['title']} {d['text']}".strip() for d in DOCUMENTS]


def ranking(query: str, documents: list[str]) -> list[int]:
    (found,) = BM25(documents).search([query], len(documents))[1]
    return [place for place in found.tolist() if place >= 0]


def ndcg(order: list[int], grades: dict[str, int]) -> float:
    gains = np.array([grades.get(DOCUMENTS[place]["_id"], 0) for place in order])
    best = np.sort(np.array(list(grades.values())))[::-1]
    discounts = 1 / np.log2(np.arange(2, 2 + len(DOCUMENTS)))
    return float(gains @ discounts[: len(gains)] / (best @ discounts[: len(best)]))


def expected_ndcg(grades: dict[str, dict[str, int]] = GRADES) -> float:
    return float(np.mean([ndcg(ranking(q["text"], texts()), grades[q["_id"]]) for q in QUERIES]))


@pytest.mark.parametrize("write", [write_beir, write_hub_lines, write_hub_tables])
def test_beir_from_a_folder_or_a_copy_of_the_hub_s(evaluated, tmp_path: Path, write) -> None:
    for name in ("fiqa", "nfcorpus", "scidocs", "scifact"):
        write(tmp_path / "data" / name)
    ended = evaluated("beir_fast", "benchmark.root=data")
    assert (ended.code, ended.err) == (0, "")
    assert scores(tmp_path)["scifact"] == pytest.approx(
        {"ndcg@10": expected_ndcg(), "recall@100": 1.0, "mrr@10": 1.0, "queries": 3}
    )


def test_all_of_beir_counts_cqadupstack_once_and_msmarco_on_dev(evaluated, tmp_path: Path) -> None:
    names = "arguana climate-fever dbpedia-entity fever fiqa hotpotqa nfcorpus nq quora scidocs"
    for name in (*names.split(), "scifact", "webis-touche2020", "trec-covid"):
        write_beir(tmp_path / "data" / name)
    write_beir(tmp_path / "data/msmarco", "dev")
    for number, forum in enumerate(FORUMS):
        write_beir(tmp_path / "data/cqadupstack" / forum)
        path = tmp_path / "data/cqadupstack" / forum / "qrels/test.tsv"
        if number % 3:  # nothing relevant is found
            path.write_text("query-id\tcorpus-id\tscore\nq1\td2\t1\nq2\td6\t1\n")
    ended = evaluated("beir15", "benchmark.root=data")
    assert (ended.code, ended.err) == (0, "")
    found = scores(tmp_path)
    assert len(found) == 14 + 12 + 1
    forums = np.mean([found[f"cqadupstack/{forum}"]["ndcg@10"] for forum in FORUMS])
    assert forums < expected_ndcg()
    mean = np.mean([expected_ndcg()] * 14 + [forums])
    assert found["average"]["ndcg@10"] == pytest.approx(mean, abs=1e-12)
    assert found["fever"]["ndcg@10"] == pytest.approx(expected_ndcg())


def test_miracl(evaluated, tmp_path: Path) -> None:
    languages = [name.removeprefix("miracl-") for name in shipped("miracl")]
    assert len(languages) == 18
    for language in languages:
        write_miracl(tmp_path / "data", language)
    ended = evaluated("miracl", "benchmark.root=data")
    assert (ended.code, ended.err) == (0, "")
    found = scores(tmp_path)
    assert list(found) == [*(f"miracl-{language}" for language in languages), "average"]
    titled = [f"{d['title'] or 'Nature'} {d['text']}" for d in DOCUMENTS]
    binary = {q: {d: min(g, 1) for d, g in judged.items()} for q, judged in GRADES.items()}
    values = [ndcg(ranking(q["text"], titled), binary[q["_id"]]) for q in QUERIES]
    assert found["miracl-yo"]["ndcg@10"] == pytest.approx(np.mean(values))
    assert found["miracl-yo"]["recall@100"] == 1.0
    assert found["miracl-yo"]["queries"] == 3


@pytest.mark.parametrize("write", [write_mkqa, write_mkqa_tables])
def test_mkqa_counts_answers_and_leaves_three_types_out(evaluated, tmp_path: Path, write) -> None:
    write(tmp_path / "data")
    ended = evaluated("mkqa", "benchmark.root=data", *without("mkqa", "mkqa-de"))
    assert (ended.code, ended.err) == (0, "")
    # BM25 finds nothing for German words.
    assert scores(tmp_path)["mkqa-de"] == {"accuracy@10": 0, "accuracy@100": 0, "queries": 3}
    assert "bm25: Accuracy@10 0.0 on average (mkqa-de 0.0)" in ended.out
    english = "benchmark.sets.mkqa-de.language=en"
    evaluated("mkqa", "benchmark.root=data", english, *without("mkqa", "mkqa-de"))
    per_query = json.loads((tmp_path / "run/per_query/bm25/mkqa-de.json").read_text())
    # The second is found by an alias; 7 stands in no passage.
    found = {query: values["accuracy@10"] for query, values in per_query.items()}
    assert found == {"11": 1, "-12": 1, "13": 0}


def test_trec_dl_ranks_1000_and_grade_1_is_not_relevant(evaluated, tmp_path: Path) -> None:
    write_beir(tmp_path / "data/msmarco", "dev")
    write_beir(tmp_path / "data/msmarco", "test")
    write_hub_tables(tmp_path / "data/trec-dl-2020")
    ended = evaluated("trec_dl", "benchmark.root=data")
    assert (ended.code, ended.err) == (0, "")
    found = scores(tmp_path)
    orders = {q["_id"]: ranking(q["text"], texts()) for q in QUERIES}
    for name, lowest in (("msmarco_dev", 1), ("trec_dl_2019", 2), ("trec_dl_2020", 2)):
        ranks = []
        for query, judged in GRADES.items():
            relevant = {d for d, grade in judged.items() if grade >= lowest}
            ids = [DOCUMENTS[place]["_id"] for place in orders[query]]
            ranks.append(next((1 / r for r, d in enumerate(ids, 1) if d in relevant), 0.0))
        assert found[name]["mrr@10"] == pytest.approx(np.mean(ranks))
        assert found[name]["ndcg@10"] == pytest.approx(expected_ndcg())
    # Of q2's documents none has grade 2, so nothing of it can be recalled.
    assert found["trec_dl_2020"]["recall@1000"] == pytest.approx(2 / 3)
    assert found["msmarco_dev"]["recall@1000"] == 1.0


def test_a_query_that_is_a_document_is_no_result(evaluated, tmp_path: Path) -> None:
    write_beir(tmp_path / "data/fiqa")
    (tmp_path / "data/fiqa/queries.jsonl").write_text(
        json.dumps({"_id": "d1", "text": texts()[0]}) + "\n"
    )
    (tmp_path / "data/fiqa/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nd1\td6\t1\n")
    own = ranking(texts()[0], texts())
    place = DOCUMENTS.index(next(d for d in DOCUMENTS if d["_id"] == "d6"))
    assert own[0] == 0
    evaluated("beir_fast", "benchmark.root=data", *without("beir_fast", "fiqa"))
    assert scores(tmp_path)["fiqa"]["mrr@10"] == pytest.approx(1 / own.index(place))


def hub_cache(folder: Path, name: str, revision: str, write: Callable[[Path], None]) -> None:
    """Files as the hub's own cache keeps them."""
    home = folder / f"datasets--{name.replace('/', '--')}"
    write(home / "snapshots" / revision)
    (home / "refs").mkdir(parents=True)
    (home / "refs/main").write_text(revision)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_from_the_hub_by_name(evaluated, cache: Path, tmp_path: Path) -> None:
    hub_cache(cache, "mteb/scifact", REVISION, write_hub_lines)
    ended = evaluated("beir_fast", *without("beir_fast", "scifact"))
    assert (ended.code, ended.err) == (0, "")
    assert scores(tmp_path)["scifact"]["ndcg@10"] == pytest.approx(expected_ndcg())
    record = json.loads((tmp_path / "run/run.json").read_text())
    expected = {"path": f"mteb/scifact@{REVISION}", "sha256": None}
    assert record["inputs"] == {"hub set scifact": expected}


def test_what_the_hub_does_not_give_ends_with_a_command(evaluated, cache: Path) -> None:
    ended = evaluated("miracl")
    assert ended.code == 3
    assert "miracl/miracl/miracl-v1.0-ar: not in the cache of the hub, and the hub" in ended.err
    assert ended.err.endswith(
        "this command gets it: "
        "hf download miracl/miracl --repo-type dataset --include 'miracl-v1.0-ar/*'\n"
    )


def beir_remedy(root: Path) -> str:
    return (
        f"this command gets it: hf download mteb/scifact --repo-type dataset "
        f"--revision {REVISION} --local-dir {root}/scifact\n"
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
    assert ended.err.endswith(beir_remedy(Path("data")))


def test_a_half_downloaded_copy_of_the_hub_s(evaluated, tmp_path: Path) -> None:
    write_hub_tables(tmp_path / "data/scifact")
    first = tmp_path / "data/scifact/corpus/corpus-00000-of-00002.parquet"
    only = ("benchmark.root=data", *without("beir_fast", "scifact"))
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    ended = evaluated("beir_fast", *only)
    assert ended.code == 3
    assert ended.err.startswith("error: data/scifact: corpus cannot be read after row 0")
    assert ended.err.endswith(beir_remedy(Path("data")))
    first.unlink()
    ended = evaluated("beir_fast", *only)
    assert ended.err.startswith("error: data/scifact/corpus/corpus-00000-of-00002.parquet: no such")
    assert ended.err.endswith(beir_remedy(Path("data")))


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


def test_documents_that_sets_share_are_read_and_indexed_once(tmp_path: Path) -> None:
    write_mkqa(tmp_path)
    corpus, questions = Place(tmp_path / "nq", None), Place(tmp_path / "mkqa", None)
    sets = [
        PublishedSet(f"mkqa-{language}", "mkqa", questions, corpus, "", language, None, 1, False, 9)
        for language in ("en", "de")
    ]
    first, second = lazy_sets(sets)
    assert first.documents is second.documents
    assert first.queries != second.queries
    lexical = Lexical()
    for one in (first, second):
        lexical.prepare(one, tmp_path)(3)
        index = lexical._indexed
        assert index is not None
        lexical.prepare(one, tmp_path)(3)
        assert lexical._indexed is index
