"""Shapes in which rows come, layout by layout: what becomes of each, or how it is refused.

`tests/data/imports/test_shapes.py` uses those that give rows; the others are the cases of this group.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets

from tdro_lightning.assembly.import_rows import import_domain
from tdro_lightning.config.schema import SourceConfig
from tdro_lightning.data.example import passage_text
from tdro_lightning.data.jsonl import read_rows
from tests.malformed import Case

# Id, query, positives and negatives of a row.
Short = tuple[str, str, list[str], list[str]]

ST, FE, TDRO = "sentence_transformers", "flag_embedding", "tdro"
TRIPLET = {"anchor": "q", "positive": "p", "negative": "n"}
READ: Short = ("1", "q", ["p"], ["n"])


@dataclass(frozen=True)
class Shape:
    """One source in a layout.

    Args:
        layout: of the source.
        what: the shape, in words.
        write: writes it to a folder.
        path: of the source, in the folder.
        expected: the rows, or the message of the refusal with `...` for anything.
        settings: further keys of `source`.
    """

    layout: str
    what: str
    write: Callable[[Path], object]
    path: str
    expected: list[Short] | str
    settings: dict[str, Any] = field(default_factory=dict)

    def use(self, folder: Path) -> list[Short]:
        """Import it as the stage does; the folder must be the current one."""
        self.write(folder)
        config = SourceConfig(
            **{"layout": self.layout, "path": self.path, "split": "train", **self.settings}
        )
        import_domain("made", config, folder / "run")
        return [
            (
                row["query_id"],
                row["query"],
                [passage_text(one) for one in row["positive_passages"]],
                [passage_text(one) for one in row["negative_passages"]],
            )
            for _, row in read_rows(folder / "run/train/made.jsonl.gz")
        ]


def refusals(shapes: list[Shape]) -> list[Case]:
    """The shapes that are refused, as cases of a group."""
    return [
        Case(f"{shape.layout}: {shape.what}", shape.use, 3, shape.expected)
        for shape in shapes
        if isinstance(shape.expected, str)
    ]


def lines(name: str, *values: Any) -> Callable[[Path], object]:
    """A file of JSON lines."""
    return raw(name, "".join(json.dumps(value) + "\n" for value in values).encode())


def raw(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def table(name: str, *rows: dict[str, Any], kind: str = "parquet") -> Callable[[Path], object]:
    """A parquet file, or a folder that `save_to_disk` has written."""

    def write(folder: Path) -> None:
        made = datasets.Dataset.from_list(list(rows))
        if kind == "parquet":
            made.to_parquet(folder / name)
        elif kind == "splits":
            datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(
                folder / name
            )
        else:
            made.save_to_disk(folder / name)

    return write


def both(*writers: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [write(folder) for write in writers]


def edited(name: str, old: str, new: str) -> Callable[[Path], object]:
    """Another text in a file that was written before."""
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


def st(
    what: str, write: Callable[[Path], object], path: str, expected: list[Short] | str, **more: Any
) -> Shape:
    return Shape(ST, what, write, path, expected, more)


def rows(layout: str, what: str, expected: list[Short] | str, *values: Any) -> Shape:
    """A shape of JSON lines."""
    return Shape(layout, what, lines("x.jsonl", *values), "x.jsonl", expected)


def cells(what: str, expected: list[Short] | str, text: str, name: str = "x.csv") -> Shape:
    """A shape of Sentence Transformers in a table of text."""
    return st(what, raw(name, text.encode()), name, expected)


def hidden(folder: Path) -> None:
    """A saved table whose rows lie in another folder."""
    table("other", TRIPLET, kind="saved")(folder)
    table("x", TRIPLET, kind="saved")(folder)
    edited("x/state.json", "data-00000", "../other/data-00000")(folder)


def without_rows(folder: Path) -> None:
    table("x", TRIPLET, kind="saved")(folder)
    (folder / "x/data-00000-of-00001.arrow").unlink()


NOT_UNDERSTOOD = "x.csv:2: columns ... are not understood: ...; give the columns: ..."
SENTENCE_TRANSFORMERS = [
    rows(ST, "columns that have no role",
         "x.jsonl:1: columns ['anchor', 'id', 'negative', 'positive', 'source'] are not understood: "
         "'id', 'source' unknown; give the columns: 'source.columns={query: COLUMN, positive: ...",
         {**TRIPLET, "source": "wiki", "id": "row-17"}),
    rows(ST, "an id before the texts", [("8712", "q", ["a"], [])],
         {"query_id": "8712", "query": "q", "answer": "a"}),
    rows(ST, "the positive first", [READ], {"positive": "p", "query": "q", "negative": "n"}),
    rows(ST, "two orders of the columns", [READ, ("2", "r", ["s"], ["t"])],
         TRIPLET, {"negative": "t", "positive": "s", "anchor": "r"}),
    rows(ST, "negatives that are null or empty", [("1", "q", ["p"], ["c"])],
         {"query": "q", "pos": "p", "negative_1": None, "negative_2": "", "negative_3": "c"}),
    rows(ST, "ids 0, 007 and a", [("0", "q", ["p"], []), ("007", "q", ["p"], []), ("a", "q", ["p"], [])],
         *({"query_id": i, "query": "q", "pos": "p"} for i in (0, "007", "a"))),
    rows(ST, "an id that is null", "x.jsonl:1: `query_id` must be a string or a whole number, is None",
         {"query_id": None, "query": "q", "pos": "p"}),
    rows(ST, "labelled pairs",
         "x.jsonl:1: columns ['label', 'sentence1', 'sentence2'] are labelled pairs, which are not ...",
         {"sentence1": "a", "sentence2": "b", "label": 1}),
    rows(ST, "two columns for the query", "x.jsonl:1: columns 'anchor' and 'query' could both be ...",
         {"anchor": "q", "query": "q", "positive": "p"}),
    rows(ST, "another column in a later row", "x.jsonl:2: columns are ..., expected ...",
         {"query": "q", "pos": "p"}, TRIPLET | {"query": "q", "pos": "p"}),
    rows(ST, "a list for a text", "x.jsonl:1: `positive` must be a string, is list",
         TRIPLET | {"positive": ["p"]}),
    rows(ST, "a query that cannot be seen",
         "domain 'made': no row that can be used (1 empty query)", TRIPLET | {"anchor": "\u200b\ufeff"}),
    st("columns that are given", lines("x.jsonl", {"a": "p", "b": "q", "c": "n", "d": 1}), "x.jsonl",
       [READ], columns={"query": "b", "positive": "a", "negative": "c"}),
    st("a given column that is missing", lines("x.jsonl", TRIPLET), "x.jsonl",
       "x.jsonl:1: `text` is missing; columns are ... (source.columns)",
       columns={"query": "text", "positive": "positive"}),
    cells("a table with commas", [READ], "negative,anchor,positive\nn,q,p\n"),
    cells("a table with tabs", [READ], "anchor\tpositive\tnegative\nq\tp\tn\n", "x.tsv"),
    cells("lines that end as on Windows, with a byte-order mark", [READ],
          "\ufeffanchor,positive,negative\r\nq,p,n\r\n"),
    cells("texts in quotes, of several lines", [("1", 'a "b", c', ["two\nlines"], ["n"])],
          'anchor,positive,negative\n"a ""b"", c","two\nlines",n\n'),
    cells("cells that others take for null or numbers", [("007", "NA", ["null"], ["1.0"])],
          "query_id,query,answer,negative\n007,NA,null,1.0\n"),
    cells("blank lines in a table", [READ], "anchor,positive,negative\n\nq,p,n\n\n"),
    st("a gzipped table", raw("x.csv.gz", gzip.compress(b"query,pos,negative\nq,p,n\n")), "x.csv.gz",
       [READ]),
    cells("a cell too many", "x.csv:3: 3 cells, and the header has 2", "query,pos\nq,p\nq,p,n\n"),
    cells("a cell too few, after a text of two lines", "x.csv:4: 1 cells, and the header has 2",
          'query,pos\n"q\nr",p\nq\n'),
    cells("a quote that is not closed", "x.csv:3: no valid table (...)", 'query,pos\nq,p\n"q,p\nq,p\n'),
    cells("a quote inside a text", "x.tsv:2: no valid table (...)", 'query\tpos\n"q" r\tp\n', "x.tsv"),
    cells("two columns of one name", "x.csv:1: columns must have names, all different, are ...",
          "query,pos,pos\nq,p,p\n"),
    cells("a column without a name, as pandas writes its index",
          "x.csv:1: columns must have names, all different, are ['', 'query', 'pos']",
          ",query,pos\n0,q,p\n"),
    cells("a table without a header", NOT_UNDERSTOOD, "who wrote faust,Goethe\nwho,he\n"),
    cells("a table with semicolons", NOT_UNDERSTOOD, "query;pos\nq;p\n"),
    cells("an empty table", "domain 'made': no row that can be used (nothing there)", ""),
    st("a table in Latin 1", raw("x.csv", b"query,pos\ncaf\xe9,p\n"), "x.csv", "x.csv:2: not UTF-8 (...)"),
    st("a parquet file", table("x.parquet", TRIPLET), "x.parquet", [READ]),
    st("a damaged parquet file", raw("x.parquet", b"PAR1 no more"), "x.parquet",
       "x.parquet: cannot be read after row 0 (...)"),
    st("a folder of save_to_disk", table("x", TRIPLET, kind="saved"), "x", [READ]),
    st("its file alone", table("x", TRIPLET, kind="saved"), "x/data-00000-of-00001.arrow", [READ]),
    st("a folder of save_to_disk with splits", table("x", TRIPLET, TRIPLET, kind="splits"), "x",
       [READ, ("2", "q", ["p"], ["n"])]),
    st("the other split", table("x", TRIPLET, TRIPLET, kind="splits"), "x", [READ], split="test"),
    st("a split that is not there", table("x", TRIPLET, kind="splits"), "x",
       "x: no split 'dev' (source.split); it has test, train", split="dev"),
    st("a folder of save_to_disk without its rows", without_rows, "x",
       "x: cannot be read as a dataset (...)"),
    st("a folder of save_to_disk that names a file elsewhere", hidden, "x",
       "x/state.json: names a file elsewhere: ..."),
    st("files in shards", both(lambda f: (f / "x").mkdir(), lines("x/train-0.jsonl", TRIPLET),
                               lines("x/train-1.jsonl", TRIPLET), lines("x/test-0.jsonl", TRIPLET)),
       "x", [READ, ("2", "q", ["p"], ["n"])]),
    st("one folder in two formats", both(lambda f: (f / "x").mkdir(), lines("x/train.jsonl", TRIPLET),
                                         table("x/train.parquet", TRIPLET)), "x",
       "x: holds files of several kinds, perhaps the same rows: train.jsonl, train.parquet; name ..."),
    st("a file of another kind", raw("x.txt", b"q\tp\n"), "x.txt", "x.txt: is no file of the kinds ..."),
    st("one JSON list for a file", raw("x.json", json.dumps([TRIPLET]).encode()), "x.json",
       [READ]),
    st("a JSON list of lists", raw("x.json", b"\n [[1]]"), "x.json",
       "x.json: item 1: expected a JSON object, got list"),
    st("a JSON list that is cut off", raw("x.json", b'[{"query": "q"},'), "x.json",
       "x.json: not valid JSON (...)"),
]  # fmt: skip


def fe(**changes: Any) -> dict[str, Any]:
    return {"query": "q", "pos": ["p"], "neg": ["n"], **changes}


FLAG_EMBEDDING = [
    rows(FE, "an id of 0 in the second row", [("1", "q", ["p"], ["n"]), ("0", "r", ["p"], ["n"])],
         fe(query_id=1), fe(query_id=0, query="r")),
    rows(FE, "ids 0 and 007", [("0", "q", ["p"], ["n"]), ("007", "q", ["p"], ["n"])],
         fe(query_id="0"), fe(query_id="007")),
    rows(FE, "no ids", [READ, ("2", "r", ["p"], ["n"])], fe(), fe(query_id=None, query="r")),
    rows(FE, "an id after rows without", "x.jsonl:2: `query_id` is there, unlike in the rows before; ...",
         fe(), fe(query_id="1")),
    rows(FE, "a row without an id after rows with one",
         "x.jsonl:2: `query_id` is missing or null, unlike in the rows before; give an id to every ...",
         fe(query_id=0), fe(query_id=None)),
    rows(FE, "an empty id", "x.jsonl:1: `query_id` is empty", fe(query_id="")),
    rows(FE, "an id that cannot be seen", "x.jsonl:1: `query_id` is empty", fe(query_id="\u2800")),
    rows(FE, "an id that is true", "x.jsonl:1: `query_id` must be a string or a whole number, is True",
         fe(query_id=True)),
    rows(FE, "an id that is a fraction", "x.jsonl:1: `query_id` must be a string or ..., is 7.0",
         fe(query_id=7.0)),
    rows(FE, "an id twice: the first row stays", [("a", "q", ["p"], ["n"])],
         fe(query_id="a"), fe(query_id="a", query="r")),
    rows(FE, "pos is a plain string", [READ], fe(pos="p")),
    rows(FE, "neg is a plain string", [READ], fe(neg="n")),
    rows(FE, "neg is null", [("1", "q", ["p"], [])], fe(neg=None)),
    rows(FE, "pos is a number", "x.jsonl:1: `pos` must be a list, is 0", fe(pos=0)),
    rows(FE, "pos is false", "x.jsonl:1: `pos` must be a list, is False", fe(pos=False)),
    rows(FE, "pos is a list written as a text", "x.jsonl:1: `pos` is a list written as a text: ...",
         fe(pos='["p", "r"]')),
    rows(FE, "a text in brackets", [("1", "q", ["[1] Faust [2]"], ["n"])], fe(pos="[1] Faust [2]")),
    rows(FE, "fewer scores than texts", "x.jsonl:1: `pos_scores` must be a list as long as `pos`, ...",
         fe(pos_scores=[])),
    rows(FE, "an id of a text that is null", [READ], fe(pos_id=[None], neg_id=[0])),
    Shape(FE, "a table", raw("x.csv", b"query,pos,neg\nq,p,n\n"), "x.csv", [READ]),
    Shape(FE, "a parquet file with numbers for ids", table("x.parquet", fe(query_id=0)), "x.parquet",
          [("0", "q", ["p"], ["n"])]),
    rows(FE, "rows of another layout", "x.jsonl:1: `query` is missing; the fields are ...", TRIPLET),
]  # fmt: skip


def tdro(**changes: Any) -> dict[str, Any]:
    passages = {"positive_passages": [{"text": "p"}], "negative_passages": [{"text": "n"}]}
    return {"query_id": "1", "query": "q", **passages, **changes}


TDRO_ROWS = [
    rows(TDRO, "ids 0 and 007", [("0", "q", ["p"], ["n"]), ("007", "q", ["p"], ["n"])],
         tdro(query_id=0), tdro(query_id="007")),
    rows(TDRO, "an id that is null", "x.jsonl:1: `query_id` must be a string or ..., is None",
         tdro(query_id=None)),
    rows(TDRO, "a positive with a title only", [("1", "q", ["Faust", "T p"], ["n"])],
         tdro(positive_passages=[{"title": "Faust", "text": ""}, {"title": "T", "text": "p"}])),
    rows(TDRO, "a positive with a title and a null text", [("1", "q", ["Faust"], ["n"])],
         tdro(positive_passages=[{"title": "Faust", "text": None}])),
    rows(TDRO, "a positive that cannot be seen",
         "domain 'made': no row that can be used (1 no positive)",
         tdro(positive_passages=[{"title": "\u00ad", "text": "\u3164"}])),
    rows(TDRO, "positives are a string", "x.jsonl:1: `positive_passages` must be a list of objects, ...",
         tdro(positive_passages="p")),
    rows(TDRO, "negatives are an empty text", "x.jsonl:1: `negative_passages` must be a list of ...",
         tdro(negative_passages="")),
    Shape(TDRO, "a table, which has no lists", raw("x.csv", b"query_id,query,positive_passages\n1,q,p\n"),
          "x.csv", "x.csv:2: `positive_passages` must be a list of objects, is 'p'"),
    Shape(TDRO, "a folder of save_to_disk", table("x", tdro(), kind="saved"), "x", [READ]),
]  # fmt: skip

SHAPES = [*SENTENCE_TRANSFORMERS, *FLAG_EMBEDDING, *TDRO_ROWS]
CASES = refusals(SHAPES)
