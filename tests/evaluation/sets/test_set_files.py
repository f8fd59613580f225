"""Local copies of each published layout, evaluated by the command that evaluates the real ones."""

import json
from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.evaluation.evaluate import prepare_search
from tdro_lightning.evaluation.sets.set_files import Location, SetFiles, lazy_sets
from tdro_lightning.search.bm25 import BM25, BM25Retriever
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
from tests.fixtures.evaluation import shipped, without

FORUMS = (
    *("android", "english", "gaming", "gis", "mathematica", "physics", "programmers", "stats"),
    *("tex", "unix", "webmasters", "wordpress"),
)


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


def expected_ndcg() -> float:
    return float(np.mean([ndcg(ranking(q["text"], texts()), GRADES[q["_id"]]) for q in QUERIES]))


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


def test_documents_that_sets_share_are_read_and_indexed_once(tmp_path: Path) -> None:
    write_mkqa(tmp_path)
    corpus, questions = Location(tmp_path / "nq", None), Location(tmp_path / "mkqa", None)
    sets = [
        SetFiles(f"mkqa-{language}", "mkqa", questions, corpus, "", language, None, 1, False, 9)
        for language in ("en", "de")
    ]
    first, second = (load() for load in lazy_sets(sets).values())
    assert first.documents is second.documents
    assert first.queries != second.queries
    lexical = BM25Retriever()
    for one in (first, second):
        prepare_search(lexical, one, tmp_path)(3)
        index = lexical._latest
        assert index is not None
        prepare_search(lexical, one, tmp_path)(3)
        assert lexical._latest is index
