import gzip
import json
import random
import re
import tracemalloc
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdro_lightning.data import jsonl
from tdro_lightning.data.characters import is_blank
from tdro_lightning.data.domain_files import domain_files
from tdro_lightning.data.jsonl import (
    byte_lines,
    read_lines,
    read_objects,
    read_rows,
    write_rows,
)
from tdro_lightning.errors import DataError

POSITIVE = {"docid": "d1", "title": "Apples", "text": "Apples grow on trees."}
ROW = {
    "query_id": "q1",
    "query": "apples",
    "positive_passages": [POSITIVE],
    "negative_passages": [{"docid": "d2", "title": "", "text": "Cars.", "score": 0.5}],
}
GOOD = json.dumps(ROW).encode()


def changed(**fields: Any) -> dict[str, Any]:
    return {**ROW, **fields}


def written(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"query_id": "q2", "query": }', "not valid JSON (Expecting value: line 1 column 29"),
        (b"{'query_id': 'q2'}", "not valid JSON (Expecting property name"),
        (GOOD + b" " + GOOD, "not valid JSON (Extra data"),
        (b'{"query": "a", "query_id": "b", "query": "c"}', "not valid JSON (duplicate key 'query'"),
        (b'{"a": {"text": 1, "text": 1}}', "not valid JSON (duplicate key 'text')"),
        (b'{"query": NaN}', "not valid JSON (NaN is not a JSON number)"),
        (b'{"query": -Infinity}', "not valid JSON (-Infinity is not a JSON number)"),
        (b"[" * 100_000, "not valid JSON (maximum recursion depth"),
        (b'["q2"]', "expected a JSON object, got list"),
        (b'"q2"', "expected a JSON object, got str"),
        (b"null", "expected a JSON object, got NoneType"),
        (b'{"query": "caf\xe9"}', "not UTF-8 (invalid continuation byte)"),
        (b"\xff\xfe{}", "not UTF-8 (invalid start byte)"),
        (b"\xef\xbb\xbf{}", "not valid JSON (Unexpected UTF-8 BOM"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_broken_lines_in_the_middle(tmp_path: Path, suffix: str, line: bytes, message: str) -> None:
    path = tmp_path / f"bad{suffix}"
    content = b"\n".join([GOOD, b"", GOOD, line, GOOD, b""])
    path.write_bytes(gzip.compress(content) if suffix == ".jsonl.gz" else content)
    read: list[str] = []
    with pytest.raises(DataError, match=f"^{re.escape(f'{path}:4: {message}')}"):
        read.extend(place for place, _ in read_objects(path))
    assert read == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize("lines", [3, 700])
def test_truncated_last_line(tmp_path: Path, lines: int) -> None:
    path = written(tmp_path / "cut.jsonl", *[GOOD] * lines, GOOD[:-20])
    with pytest.raises(DataError, match=rf"cut\.jsonl:{lines + 1}: not valid JSON \("):
        list(read_rows(path))


@pytest.mark.parametrize("lines", [0, 4, 700])
def test_last_line_ends_inside_a_character(tmp_path: Path, lines: int) -> None:
    path = written(tmp_path / "cut.jsonl", *[GOOD] * lines, '{"query": "é'.encode()[:-1])
    message = rf"cut\.jsonl:{lines + 1}: not UTF-8 \(unexpected end of data\)"
    with pytest.raises(DataError, match=message):
        list(read_rows(path))


def noisy_rows(count: int) -> bytes:
    letters = random.Random(1)
    rows = (changed(query="".join(letters.choices("abcdefgh ", k=200))) for _ in range(count))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_truncated_gzip(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    whole = gzip.compress(noisy_rows(400))
    path.write_bytes(whole[: len(whole) // 2])
    message = r"cut\.jsonl\.gz: damaged gzip file after line (\d+) \(Compressed file ended"
    with pytest.raises(DataError, match=message) as caught:
        list(read_rows(path))
    last = re.search(message, str(caught.value))
    assert last is not None
    assert 100 < int(last[1]) < 300


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (10, r": damaged gzip file after line 0 \(Error -3 while decompressing"),
        (-6, r": damaged gzip file after line \d+ \(CRC check failed"),
        *((place, ":") for place in range(200, 2000, 300)),
    ],
)
def test_damaged_gzip(tmp_path: Path, place: int, message: str) -> None:
    path = tmp_path / "damaged.jsonl.gz"
    content = bytearray(gzip.compress(noisy_rows(100)))
    content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"damaged\.jsonl\.gz{message}"):
        list(read_rows(path))


@pytest.mark.parametrize("read", [read_lines, read_rows, byte_lines])
def test_a_small_file_cannot_fill_the_memory(tmp_path: Path, monkeypatch, read) -> None:
    """A gzip file of kilobytes can hold a line of gigabytes; none is read as a whole."""
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 2**20)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * 2**20 + b"\n" + b" " * (2**20 + 1)))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb\.jsonl\.gz:1: the line is longer than 1 MiB"):
        list(read(path))
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_plain_text_named_gz(tmp_path: Path) -> None:
    path = written(tmp_path / "plain.jsonl.gz", GOOD)
    with pytest.raises(DataError, match="damaged gzip file after line 0 .Not a gzipped file"):
        list(read_rows(path))


@pytest.mark.parametrize("name", ["none.jsonl", "none.jsonl.gz"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    for read in (read_lines, read_rows):
        with pytest.raises(DataError, match=f"^{re.escape(str(tmp_path / name))}: no such file$"):
            list(read(tmp_path / name))


@pytest.mark.parametrize("name", ["folder.jsonl", "folder.jsonl.gz"])
def test_folder_in_place_of_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="is a folder, expected a .jsonl or .jsonl.gz file"):
        list(read_objects(tmp_path / name))


def test_bom_and_crlf_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n" + GOOD + b"\r\n")
    assert [(place, row["query"]) for place, row in read_rows(path)] == [
        (f"{path}:1", "apples"),
        (f"{path}:3", "apples"),
    ]
    assert next(read_lines(path))[1].startswith('{"query_id"')


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\r"])
def test_only_newline_ends_a_line(tmp_path: Path, mark: str) -> None:
    row = changed(query=f"before{mark}after")
    assert write_rows(tmp_path / "marks.jsonl", [row, ROW]) == 2
    rows = list(read_rows(tmp_path / "marks.jsonl"))
    assert [(place.rpartition(":")[2], r["query"]) for place, r in rows] == [
        ("1", f"before{mark}after"),
        ("2", "apples"),
    ]
    (tmp_path / "plain.txt").write_text(f"a{mark}b\nc", newline="")
    assert list(read_lines(tmp_path / "plain.txt")) == [(1, f"a{mark}b\n"), (2, "c")]


def test_empty_and_blank_files_hold_no_rows(tmp_path: Path) -> None:
    for content in (b"", b"\n\n \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"):
        (tmp_path / "empty.jsonl").write_bytes(content)
        assert list(read_rows(tmp_path / "empty.jsonl")) == []


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_equal_rows_give_equal_bytes(tmp_path: Path, name: str) -> None:
    paths = [tmp_path / folder / name for folder in ("a", "b")] + [tmp_path / f"other-{name}"]
    assert [write_rows(path, iter([ROW, changed(query="äpfel")])) for path in paths] == [2, 2, 2]
    first, *others = (path.read_bytes() for path in paths)
    assert others == [first, first]
    plain = gzip.decompress(first) if name.endswith(".gz") else first
    assert plain == GOOD + b"\n" + GOOD.replace(b'"apples"', '"äpfel"'.encode()) + b"\n"


def test_gzip_header_holds_neither_time_nor_name(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl.gz", [ROW])
    header = (tmp_path / "rows.jsonl.gz").read_bytes()[:10]
    assert header[3] == 0  # no flag, so no file name
    assert header[4:8] == bytes(4)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_file_is_complete_or_not_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / name

    def failing() -> Iterator[dict[str, Any]]:
        for _ in range(1000):
            yield ROW
        assert path.exists() == (before is not None)
        raise KeyboardInterrupt

    before = None
    with pytest.raises(KeyboardInterrupt):
        write_rows(path, failing())
    assert not path.exists()
    write_rows(path, [ROW])
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_rows(path, failing())
    with path.open("rb") as reader:
        write_rows(path, [])
        assert reader.read() == before
    assert list(read_rows(path)) == []


texts = st.text(min_size=1).filter(lambda text: not is_blank(text))
passages = st.lists(
    st.fixed_dictionaries(
        {"docid": st.text(), "title": st.text(), "text": texts},
        optional={"score": st.floats(allow_nan=False, allow_infinity=False)},
    ),
    min_size=1,
    max_size=3,
)
rows_of_any_text = st.lists(
    st.fixed_dictionaries(
        {
            "query_id": texts,
            "query": texts,
            "positive_passages": passages,
            "negative_passages": st.one_of(st.just([]), passages),
        }
    ),
    max_size=4,
)


@given(rows_of_any_text, st.sampled_from(["any.jsonl", "any.jsonl.gz"]))
@settings(max_examples=60, deadline=None)
def test_any_rows_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    assert write_rows(path, rows) == len(rows)
    for one in rows:
        known = {in_short(p) for p in one["positive_passages"]}
        one["negative_passages"] = [p for p in one["negative_passages"] if in_short(p) not in known]
    assert list(read_rows(path)) == [(f"{path}:{i}", row) for i, row in enumerate(rows, start=1)]


def test_domain_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        domain_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no \.jsonl or \.jsonl\.gz file"):
        domain_files(tmp_path)
    write_rows(tmp_path / "few.jsonl.gz", [ROW])
    write_rows(tmp_path / "more.jsonl", [ROW])
    (tmp_path / ".more.jsonl.7.tmp").touch()  # as a killed write_rows leaves it
    assert domain_files(tmp_path) == {
        "few": tmp_path / "few.jsonl.gz",
        "more": tmp_path / "more.jsonl",
    }
    write_rows(tmp_path / "few.jsonl", [ROW])
    with pytest.raises(DataError, match="domain 'few' has two files"):
        domain_files(tmp_path)


def in_short(passage: dict[str, Any]) -> str:
    title = passage["title"] + " " if passage["title"] else ""
    return unicodedata.normalize("NFC", title + passage["text"]).strip()
