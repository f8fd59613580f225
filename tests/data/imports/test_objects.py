import os
import re
import shutil
from pathlib import Path

import datasets
import pytest

from tdro_lightning.data.imports.objects import source
from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint

OBJECTS = [{"a": "1", "b": None}, {"a": "zwei", "b": ["x"]}]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json", "x.parquet"])
def test_a_file_can_be_read_twice(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        datasets.Dataset.from_list(OBJECTS).to_parquet(path)
    else:
        write_rows(path, OBJECTS)
    given = source(str(path), "train")
    for _ in range(2):
        assert list(given.read()) == [(f"{path}:{i}", o) for i, o in enumerate(OBJECTS, start=1)]
    assert given.inputs == {str(path): fingerprint(path)}


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.jsonl", "x.csv", "x"])
def test_another_content_of_the_same_size_and_time_is_seen(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    found = []
    for text in ("one", "two"):
        table = datasets.Dataset.from_list([{"a": text}])
        if name.endswith(("x", "arrow")):
            table.save_to_disk(tmp_path / text)
            shutil.rmtree(path, ignore_errors=True)
            if name == "x":
                shutil.copytree(tmp_path / text, path)
            else:
                shutil.copy(tmp_path / text / "data-00000-of-00001.arrow", path)
        elif name == "x.parquet":
            table.to_parquet(path)
        else:
            path.write_text(f"a\n{text}\n" if name == "x.csv" else f'{{"a": "{text}"}}\n')
        for file in (path, *path.rglob("*")):
            os.utime(file, ns=(10**18, 10**18))
        found += [value["a"] for _, value in source(str(path), "train").read()]
    assert found == ["one", "two"]


def test_a_folder_gives_the_files_of_the_split_in_order(tmp_path: Path) -> None:
    for name in ("train-00001.jsonl", "train-00000.jsonl", "test-00000.jsonl", "README.md"):
        write_rows(tmp_path / name, [{"file": name}])
    found = [value["file"] for _, value in source(str(tmp_path), "train").read()]
    assert found == ["train-00000.jsonl", "train-00001.jsonl"]
    assert [value["file"] for _, value in source(str(tmp_path), "test").read()] == [
        "test-00000.jsonl"
    ]
    with pytest.raises(DataError, match="split 'dev'.*holds README.md, test-00000.jsonl"):
        source(str(tmp_path), "dev")


def test_a_folder_without_splits_gives_all_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        write_rows(tmp_path / name, [{"file": name}])
    assert [value["file"] for _, value in source(str(tmp_path), "train").read()] == [
        "a.jsonl",
        "b.jsonl",
    ]


@pytest.mark.parametrize("path", ["gone.jsonl", "data/gone.jsonl", "a/b/c", "/etc/no such"])
def test_a_missing_file_is_no_hub_name(path: str) -> None:
    with pytest.raises(DataError, match=f"{re.escape(path)}: no such file or folder, and no hub"):
        source(path, "train")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two folders in a hub dataset's layout, found under a name like a hub dataset's."""
    for config in ("pair", "triplet"):
        write_rows(tmp_path / f"owner/name/{config}/train.jsonl", [{"config": config}])
    configs = "".join(
        f"- config_name: {c}\n  data_files: {c}/train.jsonl\n" for c in ("pair", "triplet")
    )
    (tmp_path / "owner/name/README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    monkeypatch.chdir(tmp_path)


def test_a_hub_dataset_s_configuration_or_file(hub: None) -> None:
    given = source("owner/name:triplet", "train")
    ((place, value),) = given.read()
    assert value == {"config": "triplet"}
    assert place.endswith("owner/name/triplet/train.jsonl:1")
    assert given.inputs == {place[:-2]: fingerprint(Path("owner/name/triplet/train.jsonl"))}
    (found,) = source("owner/name:pair/train.jsonl", "train").read()
    assert found[1] == {"config": "pair"}


def test_what_the_hub_does_not_have_is_named(hub: None) -> None:
    with pytest.raises(DataError, match=r"owner/name:other: cannot be read as a dataset \("):
        source("owner/name:other", "train")


def test_a_hub_dataset_s_ids_are_not_cast(hub: None, tmp_path: Path) -> None:
    """`datasets` makes 7 and 5 of these, and would read "007" of a table as 7."""
    write_rows(tmp_path / "owner/name/pair/train.jsonl", [{"id": "007"}, {"id": 5}])
    found = source("owner/name:pair", "train").read()
    assert [value for _, value in found] == [{"id": "007"}, {"id": 5}]
    (tmp_path / "owner/name/pair/train.csv").write_text("id,text\n007,NA\n")
    ((_, value),) = source("owner/name:pair/train.csv", "train").read()
    assert value == {"id": "007", "text": "NA"}
    table = datasets.Dataset.from_list([{"id": "007"}])
    table.to_parquet(tmp_path / "owner/name/pair/train.parquet")
    ((_, value),) = source("owner/name:pair/train.parquet", "train").read()
    assert value == {"id": "007"}
