import hashlib
import json
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdro_lightning import files
from tdro_lightning.data.jsonl import read_lines
from tdro_lightning.errors import DataError
from tdro_lightning.files import (
    fingerprint,
    read_checked_json,
    read_json,
    require_checksum,
    whole_folder,
    write_checked_json,
    write_json,
    write_text,
)
from tests.damage import damages


def test_write_text_creates_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "first, much longer\n")
    write_text(path, "zweite Zeile: äöü\n")
    assert path.read_bytes() == "zweite Zeile: äöü\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["c.txt"]


def test_a_failing_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"


def test_an_open_reader_keeps_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old content")
    with path.open() as stream:
        write_text(path, "new")
        assert stream.read() == "old content"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json_values)
@settings(deadline=None)
def test_json_round_trip(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


def test_json_keeps_order_and_letters(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"z": "é", "a": [0.1]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == (
        '{\n  "z": "é",\n  "a": [\n    0.1\n  ]\n}\n'
    )


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_has_no_nan(tmp_path: Path, number: float) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": number})
    assert json.loads(path.read_text()) == 1


def test_missing_json(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}: no such file$"):
        read_json(path)


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"{'a': 1}", b'{"a": "\xff"}', b"1 2"])
def test_not_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: not valid JSON \("):
        read_json(path)


def test_fingerprint_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fingerprint(tmp_path / "abc") == expected  # the test vector of FIPS 180-2
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    assert fingerprint(tmp_path / "large") == hashlib.sha256(bytes(3_000_000)).hexdigest()


def folder(path: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def test_fingerprint_of_a_folder(tmp_path: Path) -> None:
    files = {"a": "1", "b/c": "2", "b/d/e": "3"}
    first = fingerprint(folder(tmp_path / "first", files))
    backwards = folder(tmp_path / "second", dict(reversed(files.items())))
    (backwards / "empty").mkdir()
    assert fingerprint(backwards) == first
    changes = [
        {**files, "a": "1 "},
        {**files, "f": ""},
        {"a": "1", "b/c": "2"},
        {"a": "1", "b/c2": "2", "b/d/e": "3"},
        {"a": "1", "b2/c": "2", "b2/d/e": "3"},
        {"a": "2", "b/c": "1", "b/d/e": "3"},
    ]
    others = [fingerprint(folder(tmp_path / str(i), c)) for i, c in enumerate(changes)]
    assert len({first, *others}) == 7


def test_fingerprint_goes_through_a_folder_by_name(tmp_path: Path) -> None:
    names = [f"{i * 7 % 30:02d}.txt" for i in range(30)]
    path = folder(tmp_path / "many", dict(zip(names, names, strict=True)))
    lines = [f"{name}\0{hashlib.sha256(name.encode()).hexdigest()}\n" for name in sorted(names)]
    assert fingerprint(path) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For root nothing is forbidden, so that the system's answer is made up."""
    path = tmp_path / "rows.jsonl"
    path.write_text("{}")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    monkeypatch.setattr(Path, "read_text", refused)
    for read in (read_json, fingerprint, lambda path: list(read_lines(path))):
        with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: no permission to read it$"):
            read(path)


def test_fingerprint_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{re.escape(str(tmp_path / 'x'))}: no such file or fold"):
        fingerprint(tmp_path / "x")


def test_a_folder_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    for name in ("export", ".export.123.tmp"):  # of an earlier run, and of a killed one
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").touch()
    with whole_folder(tmp_path / "export") as folder:
        (folder / "part").mkdir()
        (folder / "part/new").write_text("x")
        assert not (tmp_path / "export").exists()
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        *("export", "export/part", "export/part/new")
    ]


def test_a_folder_that_failed_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "export") as folder:  # noqa: PT012
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_file_with_a_checksum_of_its_own_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    value = {"b": 0.1, "a": 0.2, "names": ["x", "ü", None], "inner": {"c": 1, "d": 2}}
    write_checked_json(path, value)
    read = read_checked_json(path)
    assert {**value, "sha256": read["sha256"]} == read
    for _, content in damages(path, older=b'{"sha256": "0"}'):
        path.write_bytes(content)
        with pytest.raises(DataError, match="changed after it was written|not valid JSON"):
            read_checked_json(path)


def test_a_file_without_a_checksum_is_read_as_it_is(tmp_path: Path) -> None:
    """As those of version 0.1.0 and of other programs are."""
    for value in ({"a": 1}, [1], "text"):
        write_json(tmp_path / "one.json", value)
        assert read_checked_json(tmp_path / "one.json") == value
    assert not require_checksum(tmp_path / "one.json", {"a": 1})


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    """Also where it keeps its size and its time of change."""
    path = tmp_path / "one"
    path.write_bytes(b"one")
    old = time.time() - 100
    files._digests.clear()
    first = fingerprint(path)
    assert not files._digests, "the clock may not have moved on yet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.time, "time", lambda: old + 1000)
        assert fingerprint(path) == first
        assert list(files._digests.values()) == [first]
        with pytest.MonkeyPatch.context() as unread:
            unread.setattr(files.hashlib, "file_digest", None)
            assert fingerprint(path) == first
        time.sleep(0.02)
        times = path.stat()
        path.write_bytes(b"two")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert fingerprint(path) == hashlib.sha256(b"two").hexdigest()
