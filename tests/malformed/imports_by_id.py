"""Shapes as in `imports.py` that name documents by their ids: BEIR's and Tevatron's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.malformed.imports import READ, Shape, Short, both, lines, refusals

HEADER = "query-id\tcorpus-id\tscore\n"
DOCUMENTS = [{"_id": "p", "text": "p"}, {"_id": "n", "text": "n"}]
QUERIES = [{"_id": "1", "text": "q"}]


def written(
    documents: list[dict[str, Any]], queries: list[dict[str, Any]], judged: str
) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / "x/qrels").mkdir(parents=True)
        for name, values in (("corpus", documents), ("queries", queries)):
            lines(f"x/{name}.jsonl", *values)(folder)
        (folder / "x/qrels/train.tsv").write_text(judged)

    return write


def beir(
    what: str,
    expected: list[Short] | str,
    judged: str = "1\tp\t1\n1\tn\t0\n",
    documents: list[dict[str, Any]] = DOCUMENTS,
    queries: list[dict[str, Any]] = QUERIES,
) -> Shape:
    return Shape("beir", what, written(documents, queries, HEADER + judged), "x", expected)


SCORE = "x/qrels/train.tsv:2: the score must be a whole number up to 100, is ..."
BEIR = [
    beir("grades 0 and 1", [READ]),
    beir("a grade with a decimal point and no fraction", [READ], "1\tp\t1.0\n1\tn\t0.0\n"),
    beir("a negative grade is not relevant", [READ], "1\tn\t-3\n1\tp\t100\n"),
    beir("a fraction for a grade", SCORE, "1\tp\t0.5\n"),
    beir("a grade above 100", SCORE, "1\tp\t101\n"),
    beir("a grade of two thousand millions", SCORE, "1\tp\t2000000000\n"),
    beir("a grade of 19 digits", SCORE, f"1\tp\t{'9' * 19}\n"),
    beir("a grade that is no number", SCORE, "1\tp\tyes\n"),
    beir("a grade that is empty", SCORE, "1\tp\t\n"),
    beir("an empty id in a judgement", "x/qrels/train.tsv:2: an id is empty, query '' or document 'p'", "\tp\t1\n"),
    beir("two judgements that contradict each other",
         "x/qrels/train.tsv:4: query '1' and document 'p' are judged before, with grade 1 and not 0",
         "1\tp\t1\n1\tn\t0\n1\tp\t0\n"),
    beir("a judgement twice", [READ], "1\tp\t1\n1\tn\t0\n1\tp\t1\n"),
    beir("nothing relevant", "domain 'made': no row that can be used (1 no positive)", "1\tp\t-1\n"),
    beir("a query that is missing", "x/queries.jsonl: 1 judged queries are missing, among them '2'",
         "2\tp\t1\n"),
    beir("a document with a title only", [("1", "q", ["Faust"], ["n"])],
         documents=[{"_id": "p", "title": "Faust", "text": ""}, DOCUMENTS[1]]),
    beir("a document with a title and a null text", [("1", "q", ["Faust"], ["n"])],
         documents=[{"_id": "p", "title": "Faust", "text": None}, DOCUMENTS[1]]),
    beir("numbers for ids", [("0", "q", ["p"], [])], "0\t7\t1\n",
         [{"_id": 7, "text": "p"}], [{"_id": 0, "text": "q"}]),
    beir("ids that start with zeros", [("007", "q", ["p"], [])], "007\t00\t1\n",
         [{"_id": "00", "text": "p"}, {"_id": "0", "text": "n"}],
         [{"_id": "7", "text": "r"}, {"_id": "007", "text": "q"}]),
    beir("an id that is null", "x/queries.jsonl:1: `_id` must be a string or a whole number, is None",
         queries=[{"_id": None, "text": "q"}]),
    beir("a query twice", "x/queries.jsonl:2: `_id` '1' is a duplicate", queries=QUERIES * 2),
    beir("a document twice", "x/corpus.jsonl:3: document 'p' is a duplicate",
         documents=[*DOCUMENTS, DOCUMENTS[0]]),
    beir("a query that cannot be seen", "domain 'made': no row that can be used (1 empty query)",
         queries=[{"_id": "1", "text": "\u00ad\u2060"}]),
]  # fmt: skip


def by_id(positives: Any, negatives: Any, **changes: Any) -> dict[str, Any]:
    ids = {"positive_document_ids": positives, "negative_document_ids": negatives}
    return {"query_id": "1", "query_text": "q", **ids, **changes}


def tevatron(
    what: str, expected: list[Short] | str, row: dict[str, Any], *documents: dict[str, Any]
) -> Shape:
    given = documents or ({"docid": "p", "text": "p"}, {"docid": 0, "text": "n"})
    write = both(lines("x.jsonl", row), lines("corpus.jsonl", *given))
    return Shape("tevatron", what, write, "x.jsonl", expected, {"corpus": "corpus.jsonl"})


TEVATRON = [
    tevatron("documents by id, 0 too", [READ], by_id(["p"], [0])),
    tevatron("negatives are null", [("1", "q", ["p"], [])], by_id(["p"], None)),
    tevatron("a number for the query's id", [("0", "q", ["p"], [])], by_id(["p"], [], query_id=0)),
    tevatron("the query's id is null", "x.jsonl:1: `query_id` must be a string or ..., is None",
             by_id(["p"], [], query_id=None)),
    tevatron("ids in a text", "x.jsonl:1: `positive_document_ids` must be a list, is 'p'", by_id("p", [])),
    tevatron("an id that is null",
             "x.jsonl:1: `positive_document_ids[0]` must be a string or a whole number, is None",
             by_id([None], [])),
    tevatron("a document whose id is null", "corpus.jsonl:1: `docid` must be a string or ..., is None",
             by_id(["None"], []), {"docid": None, "text": "p"}),
    tevatron("a document twice", "corpus.jsonl:2: document 'p' is a duplicate", by_id(["p"], []),
             {"docid": "p", "text": "p"}, {"docid": "p", "text": "r"}),
    tevatron("a document with a title only", [("1", "q", ["Faust"], [])], by_id(["p"], []),
             {"docid": "p", "title": "Faust", "text": ""}),
    tevatron("its oldest rows", [READ], {"query": "q", "positives": ["p"], "negatives": ["n"]}),
    tevatron("its oldest rows as tokens", "x.jsonl:1: `query` holds token ids, not text; ...",
             {"query": [1, 2], "positives": [[3]], "negatives": []}),
    tevatron("rows of another layout", "x.jsonl:1: none of Tevatron's layouts; the fields are ...",
             json.loads('{"anchor": "q", "positive": "p"}')),
]  # fmt: skip

SHAPES = [*BEIR, *TEVATRON]
CASES = refusals(SHAPES)
