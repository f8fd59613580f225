import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tdro_lightning.data.domains import Domain, load_domains
from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.files import fingerprint


def row(i: int, **changes: Any) -> dict[str, Any]:
    return {
        "query_id": f"q{i}",
        "query": f"query {i}",
        "positive_passages": [{"docid": f"p{i}", "title": "Title", "text": f"positive {i}"}],
        "negative_passages": [{"docid": f"n{i}", "title": "", "text": f"negative {i}"}],
        **changes,
    }


def entry(file: str) -> dict[str, Any]:
    return {"file": file, "prompts": ["Find it", "Search it"], "symmetric": True}


def load(
    folder: Path,
    files: Mapping[str, str],
    only: list[str] | None = None,
    from_hub: bool = False,
    rows: Mapping[str, int] | None = None,
) -> list[Domain]:
    catalogue = {name: entry(file) for name, file in files.items()}
    hub = str(folder) if from_hub else None
    return load_domains(
        catalogue, root="nowhere" if hub else str(folder), hub=hub, only=only, rows=rows
    )


def load_one(folder: Path, rows: Sequence[Mapping[str, Any]], from_hub: bool = False) -> Domain:
    write_rows(folder / "one.jsonl", rows)
    return load(folder, {"one": "one.jsonl"}, from_hub=from_hub)[0]


def bare(passages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**passage, "score": passage.get("score")} for passage in passages]


def as_stored(value: Mapping[str, Any], line: int) -> dict[str, Any]:
    return {
        "line": line,
        "query_id": value["query_id"],
        "query": value["query"],
        "positive_passages": bare(value["positive_passages"]),
        "negative_passages": bare(value.get("negative_passages") or []),
    }


def test_catalogue_order_and_fields(tmp_path: Path) -> None:
    write_rows(tmp_path / "b.jsonl.gz", [row(0), row(1)])
    write_rows(tmp_path / "sub" / "a.jsonl", [row(2)])
    second, first = load(tmp_path, {"b": "b.jsonl.gz", "a": "sub/a.jsonl"})
    assert (second.name, first.name) == ("b", "a")
    assert (len(second), len(first)) == (2, 1)
    assert first.place == str(tmp_path / "sub" / "a.jsonl")
    assert first.prompts == ("Find it", "Search it")
    assert first.symmetric
    assert second.fingerprint == fingerprint(tmp_path / "b.jsonl.gz")
    assert list(second.table) == [as_stored(row(0), 1), as_stored(row(1), 2)]


def test_only_chooses_and_orders(tmp_path: Path) -> None:
    files = {name: f"{name}.jsonl" for name in "abc"}
    for i, file in enumerate(files.values()):
        write_rows(tmp_path / file, [row(i)])
    (tmp_path / "b.jsonl").unlink()
    assert [domain.name for domain in load(tmp_path, files, ["c", "a"])] == ["c", "a"]


def test_unknown_name_in_only(tmp_path: Path) -> None:
    message = "domains.only names ['x', 'y'], not in the catalogue; it has ['a', 'b']"
    with pytest.raises(ConfigError, match=re.escape(message)):
        load(tmp_path, {"a": "a.jsonl", "b": "b.jsonl"}, ["a", "x", "y"])


def test_missing_file(tmp_path: Path) -> None:
    message = f"{tmp_path / 'a.jsonl'}: no such file; set domains.root"
    with pytest.raises(DataError, match=re.escape(message)):
        load(tmp_path, {"a": "a.jsonl"})


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_file_without_rows(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    for _ in range(2):
        with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'a.jsonl'}: no rows in it")):
            load(tmp_path, {"a": "a.jsonl"})


def test_bad_row_deep_in_a_file(tmp_path: Path) -> None:
    rows = [row(i) for i in range(2500)]
    rows[2200]["query"] = 2200
    with pytest.raises(DataError, match=r"one\.jsonl:2201: `query` must be a string, is int 2200$"):
        load_one(tmp_path, rows)
    rows[2200]["query"] = "2200"
    assert load_one(tmp_path, rows).table[2200]["query"] == "2200"


def test_odd_rows_leave_their_neighbours_alone(tmp_path: Path) -> None:
    odd = [
        row(1, query="12", query_id="0012"),
        row(2, query="line\u2028separator and \x00 and \U0001f34e", note={"deep": [1, "a"]}),
        row(3, query="2020-01-01T00:00:00Z", negative_passages=[]),
        row(4, positive_passages=[{"text": "only text"}]),
        row(5, positive_passages=[{"docid": "d", "title": "t", "text": "x", "score": 3}] * 40),
        row(6, query="q " * 50_000),
    ]
    rows = [plain for i, value in enumerate(odd) for plain in (row(10 + 2 * i), value)] + [row(99)]
    stored = [as_stored(value, line) for line, value in enumerate(rows, start=1)]
    stored[7]["positive_passages"] = [
        {"docid": "", "title": "", "text": "only text", "score": None}
    ]
    assert list(load_one(tmp_path, rows).table) == stored


def test_blank_lines_count(tmp_path: Path) -> None:
    content = "\n\n".join(json.dumps(row(i)) for i in range(3))
    (tmp_path / "a.jsonl").write_text(content)
    assert load(tmp_path, {"a": "a.jsonl"})[0].table["line"][:] == [1, 3, 5]


@pytest.mark.parametrize("from_hub", [False, True])
def test_query_ids_are_distinct(tmp_path: Path, from_hub: bool) -> None:
    rows = [row(i) for i in range(50)]
    for twin, of in ((45, 3), (31, 7), (48, 45)):
        rows[twin]["query_id"] = rows[of]["query_id"]
    message = r"one\.jsonl:32: `query_id` stands in line 8 already; ids must be distinct"
    with pytest.raises(DataError, match=message):
        load_one(tmp_path, rows, from_hub)


def test_rows_without_negatives(tmp_path: Path) -> None:
    rows = [row(i) for i in range(1500)]
    load_one(tmp_path, rows).require_negatives()
    rows[1200]["negative_passages"] = []
    del rows[1300]["negative_passages"]
    domain = load_one(tmp_path, rows)
    message = r"one\.jsonl:1201: `negative_passages` is empty in 2 rows; .*data\.negatives=0"
    with pytest.raises(DataError, match=message):
        domain.require_negatives()


def test_an_edit_of_same_size_and_time_is_noticed(tmp_path: Path) -> None:
    before = load_one(tmp_path, [row(0), row(1)])
    path = tmp_path / "one.jsonl"
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"query 1", b"quest 1"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    after = load(tmp_path, {"one": "one.jsonl"})[0]
    assert before.table["query"][:] == ["query 0", "query 1"]
    assert after.table["query"][:] == ["query 0", "quest 1"]
    assert before.fingerprint != after.fingerprint


def test_equal_content_shares_the_cache(tmp_path: Path) -> None:
    rows = [row(i) for i in range(5)]
    first, again = load_one(tmp_path / "a", rows), load_one(tmp_path / "b", rows)
    os.utime(tmp_path / "a" / "one.jsonl", (1, 1))
    touched = load(tmp_path / "a", {"one": "one.jsonl"})[0]
    assert first.table.cache_files == again.table.cache_files == touched.table.cache_files
    assert again.place == str(tmp_path / "b" / "one.jsonl")


def test_many_rows_are_mapped_from_disk(tmp_path: Path, datasets_cache: Path) -> None:
    write_rows(tmp_path / "one.jsonl", (row(i) for i in range(20_000)))
    before = pa.total_allocated_bytes()
    (domain,) = load(tmp_path, {"one": "one.jsonl"})
    files = [Path(file["filename"]) for file in domain.table.cache_files]
    assert len(files) > 0
    assert all(file.is_relative_to(datasets_cache) for file in files)
    size = sum(file.stat().st_size for file in files)
    assert size > 2e6
    assert pa.total_allocated_bytes() - before < size / 10
    rows = np.random.default_rng(0).integers(20_000, size=50).tolist()
    assert [domain.table[i] for i in rows] == [as_stored(row(i), i + 1) for i in rows]
    domain.require_negatives()


def test_hub_layout_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [row(0), row(1), row(2, negative_passages=[])]
    rows[1]["positive_passages"][0]["score"] = 2.5
    del rows[2]["negative_passages"]
    local, hub = load_one(tmp_path, rows), load_one(tmp_path, rows, from_hub=True)
    assert list(hub.table) == list(local.table)
    assert hub.place == f"{tmp_path}:one.jsonl"
    assert hub.fingerprint == local.fingerprint
    assert len(hub.table.cache_files) > 0
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}:one.jsonl:3: `negative_passages`")):
        hub.require_negatives()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(0), row(1, query=" ")], "one.jsonl:2: `query` is empty"),
        ([row(0), row(1, positive_passages=[])], "one.jsonl:2: `positive_passages` is empty"),
        ([row(0, query=None), row(1)], "one.jsonl:1: `query` must be a string, is NoneType"),
        ([], "one.jsonl: no rows in it"),
    ],
)
def test_bad_rows_in_a_hub_layout(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}:{message}")):
        load_one(tmp_path, rows, from_hub=True)


def test_missing_file_in_a_hub_layout(tmp_path: Path) -> None:
    write_rows(tmp_path / "other.jsonl", [row(0)])
    message = f"{tmp_path}:one.jsonl: no such file; set domains.hub to the dataset"
    with pytest.raises(DataError, match=re.escape(message)):
        load(tmp_path, {"one": "one.jsonl"}, from_hub=True)


def test_a_part_of_a_domain_is_the_same_whatever_else_is_loaded(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_rows(tmp_path / f"{name}.jsonl", [row(i) for i in range(50)])
    files = {"one": "one.jsonl", "two": "two.jsonl"}
    part, whole = load(tmp_path, files, rows={"one": 5})
    assert (len(part), len(whole)) == (5, 50)
    kept = [entry["query_id"] for entry in part.table]
    assert kept == sorted(kept, key=lambda name: int(name[1:]))
    assert kept != [f"q{i}" for i in range(5)]
    (alone,) = load(tmp_path, files, only=["one"], rows={"one": 5})
    assert [entry["query_id"] for entry in alone.table] == kept
    assert alone.fingerprint == part.fingerprint
    (other,) = load(tmp_path, files, only=["one"], rows={"one": 6})
    assert len({part.fingerprint, other.fingerprint, fingerprint(tmp_path / "one.jsonl")}) == 3
    assert set(kept) < {entry["query_id"] for entry in other.table}


def test_a_part_s_rows_without_negatives_are_found_by_their_line(tmp_path: Path) -> None:
    write_rows(tmp_path / "one.jsonl", [row(i, negative_passages=[]) for i in range(9)])
    (part,) = load(tmp_path, {"one": "one.jsonl"}, rows={"one": 2})
    with pytest.raises(DataError, match=rf"one\.jsonl:{part.table[0]['line']}: .* in 2 rows"):
        part.require_negatives()


def test_a_part_must_have_rows_and_be_of_a_known_domain(tmp_path: Path) -> None:
    write_rows(tmp_path / "one.jsonl", [row(i) for i in range(3)])
    for count in (0, 4):
        with pytest.raises(ConfigError, match=rf"rows\.one={count} must be from 1 to its 3 rows"):
            load(tmp_path, {"one": "one.jsonl"}, rows={"one": count})
    with pytest.raises(ConfigError, match=r"domains\.rows names \['two'\], not in the catalogue"):
        load(tmp_path, {"one": "one.jsonl"}, rows={"two": 1})
