"""One faulty line among good ones, read as a domain's file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tdro_lightning.data.domains import load_domains
from tests.malformed import Case

PASSAGE = {"docid": "p", "title": "", "text": "Faust is a play"}


def good(name: str = "q") -> dict[str, Any]:
    return {
        "query_id": name,
        "query": "who wrote faust",
        "positive_passages": [PASSAGE],
        "negative_passages": [{**PASSAGE, "docid": "n", "text": "Faust is a city"}],
    }


def loaded(folder: Path, content: bytes, name: str = "nq.jsonl") -> None:
    """Read a file as the domain `nq`, whose rows need a hard negative."""
    (folder / name).write_bytes(content)
    entry = {"file": name, "prompts": ["Find it"], "symmetric": False}
    for domain in load_domains({"nq": entry}, root=str(folder), hub=None, only=None):
        domain.require_negatives()


def third(line: bytes | str, end: bytes = b"\n") -> Callable[[Path], None]:
    """Use a file of four rows whose third line is this one."""
    given = line if isinstance(line, bytes) else line.encode()
    before = [json.dumps(good(name)).encode() + b"\n" for name in "ab"]
    after = json.dumps(good("c")).encode() + b"\n"
    return lambda folder: loaded(folder, b"".join([*before, given, end, after]))


def row(**changes: Any) -> Callable[[Path], None]:
    return third(json.dumps({**good(), **changes}))


def without(key: str) -> Callable[[Path], None]:
    return third(json.dumps({k: v for k, v in good().items() if k != key}))


def passage(part: str, **changes: Any) -> Callable[[Path], None]:
    return row(**{part: [PASSAGE | {"text": "another text"}, {**PASSAGE, **changes}]})


def cut_off(folder: Path) -> None:
    line = json.dumps(good())
    loaded(folder, f"{line}\n{line[:60]}".encode())


LIST = "must be a list of passages, is"
OBJECT = "must be an object with docid, title and text, is"
STRING = "must be a string, is"
SURROGATE = "holds a lone surrogate, not valid Unicode"
POSITIVES, NEGATIVES = "positive_passages", "negative_passages"

_FAULTS: list[tuple[str, Callable[[Path], None], str]] = [
    ("a line that is not JSON", third("{'query': 1}"), "not valid JSON (...)"),
    ("an empty object", third("{}"), f"`{POSITIVES}` {LIST} missing"),
    ("a line of another kind", third("[1, 2]"), "expected a JSON object, got list"),
    ("a bare string", third('"text"'), "expected a JSON object, got str"),
    ("two objects on a line", third("{} {}"), "not valid JSON (...)"),
    (
        "a key twice",
        third('{"query": "a", "query": "b"}'),
        "not valid JSON (duplicate key 'query')",
    ),
    ("NaN", row(score=float("nan")), "not valid JSON (NaN is not a JSON number)"),
    ("infinity", row(score=float("-inf")), "not valid JSON (-Infinity is not a JSON number)"),
    ("brackets 100,000 deep", third("[" * 100_000), "not valid JSON (...)"),
    ("a number of 5000 digits", third('{"query": ' + "1" * 5000 + "}"), "not valid JSON (...)"),
    ("bytes that are not UTF-8", third(b'{"query": "\xff"}'), "not UTF-8 (invalid start byte)"),
    ("text in UTF-16", third('{"query": "a"}'.encode("utf-16")), "not UTF-8 (...)"),
    ("a NUL byte outside a text", third(b"\x00"), "not valid JSON (...)"),
    ("no query", without("query"), f"`query` {STRING} missing"),
    ("no query_id", without("query_id"), f"`query_id` {STRING} missing"),
    ("no positives", without(POSITIVES), f"`{POSITIVES}` {LIST} missing"),
    ("query is null", row(query=None), f"`query` {STRING} NoneType None"),
    ("query is a number", row(query=7), f"`query` {STRING} int 7"),
    ("query is true", row(query=True), f"`query` {STRING} bool True"),
    ("query is an object", row(query={"text": "a"}), f"`query` {STRING} dict ..."),
    ("query is a list", row(query=["a"]), f"`query` {STRING} list ['a']"),
    ("query is empty", row(query=""), "`query` is empty"),
    *(
        (f"query is {what} only", row(query=text), "`query` is empty")
        for what, text in {
            "zero-width spaces": "\u200b\u200b",
            "a byte-order mark": "\ufeff",
            "a Hangul filler": "\u3164",
            "a Braille blank": "\u2800",
            "soft hyphens": "\u00ad\u00ad",
            "controls": "\x00\x07\x9f",
            "marks of direction": "\u200f\u202e\u2069",
        }.items()
    ),
    ("query is white space", row(query=" \t\u3000"), "`query` is empty"),
    ("query_id is a number", row(query_id=12), f"`query_id` {STRING} int 12"),
    ("a lone surrogate in the query", row(query="a\ud800"), f"`query` {SURROGATE}"),
    ("positives are a string", row(**{POSITIVES: "Faust"}), f"`{POSITIVES}` {LIST} str"),
    ("positives are null", row(**{POSITIVES: None}), f"`{POSITIVES}` {LIST} NoneType"),
    ("positives are empty", row(**{POSITIVES: []}), f"`{POSITIVES}` is empty; every row needs ..."),
    ("a positive is a string", row(**{POSITIVES: ["Faust"]}), f"`{POSITIVES}[0]` {OBJECT} str"),
    ("a positive is null", row(**{POSITIVES: [PASSAGE, None]}), f"`{POSITIVES}[1]` {OBJECT} ..."),
    ("a positive is empty", passage(POSITIVES, text=" "), f"in `{POSITIVES}[1]`: `text` is empty"),
    (
        "a positive's title cannot be seen, and its text is empty",
        passage(POSITIVES, title="\u200b", text=""),
        f"in `{POSITIVES}[1]`: `text` is empty",
    ),
    (
        "a positive's text is a number",
        passage(POSITIVES, text=3),
        f"in `{POSITIVES}[1]`: `text` {STRING} int 3",
    ),
    (
        "a positive's title is a list",
        passage(POSITIVES, title=[]),
        f"in `{POSITIVES}[1]`: `title` {STRING} list []",
    ),
    (
        "a positive's docid is a number",
        passage(POSITIVES, docid=1),
        f"in `{POSITIVES}[1]`: `docid` {STRING} int 1",
    ),
    ("negatives are a string", row(**{NEGATIVES: "Faust"}), f"`{NEGATIVES}` {LIST} str"),
    ("negatives are an object", row(**{NEGATIVES: {}}), f"`{NEGATIVES}` {LIST} dict"),
    ("a negative is a string", row(**{NEGATIVES: ["Faust"]}), f"`{NEGATIVES}[0]` {OBJECT} str"),
    ("a negative is empty", passage(NEGATIVES, text=""), f"in `{NEGATIVES}[1]`: `text` is empty"),
    (
        "a lone surrogate in a negative",
        passage(NEGATIVES, text="\udfff"),
        f"in `{NEGATIVES}[1]`: `text` {SURROGATE}",
    ),
    (
        "a negative's score is a text",
        passage(NEGATIVES, score="0.5"),
        f"in `{NEGATIVES}[1]`: `score` must be a finite number, is '0.5'",
    ),
    ("no negatives", row(**{NEGATIVES: []}), f"`{NEGATIVES}` is empty in 1 rows; hard ..."),
    (
        "the only negative equals a positive",
        row(**{NEGATIVES: [{**PASSAGE, "text": " Faust is a play\n"}]}),
        f"`{NEGATIVES}` is empty in 1 rows; hard negatives are needed here: mine them ...",
    ),
    ("a query_id twice", row(query_id="a"), "`query_id` stands in line 1 already; ids must ..."),
]
CASES = [Case(what, use, 3, f"nq.jsonl:3: {message}") for what, use, message in _FAULTS]
CASES.append(
    Case(
        "a last line that is cut off",
        cut_off,
        3,
        "nq.jsonl:2: not valid JSON (...); the file ends in this line: is it cut off?",
    )
)
