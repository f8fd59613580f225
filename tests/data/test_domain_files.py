"""What a hub dataset's domains are read from: local folders, and snapshots in the hub's cache."""

import json
from pathlib import Path

import pytest

from tdro_lightning.data.domain_files import domain_file, hub_content
from tdro_lightning.data.domains import load_domains
from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint
from tests.damage import damages
from tests.made_hub import COMMIT, hub_cache, snapshot
from tests.made_up import rows


def lines(count: int) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows("made", count, overlap=1))


FILES = {"small": "a.jsonl", "large": "sub/b.jsonl"}
CONTENT = {"a.jsonl": lines(1), "sub/b.jsonl": lines(9)}


def test_a_folder_s_files(tmp_path: Path) -> None:
    for file, content in CONTENT.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(content)
    found = hub_content(str(tmp_path), FILES)
    paths = {f"domain {name}": tmp_path / file for name, file in FILES.items()}
    assert found == {label: (str(path), path) for label, path in paths.items()}
    with pytest.raises(DataError, match=r"c\.jsonl: no such file; set domains\.hub"):
        hub_content(str(tmp_path), {"other": "c.jsonl"})


def test_a_snapshot_s_files_with_its_commit(tmp_path: Path, monkeypatch) -> None:
    cache = hub_cache(tmp_path / "snapshots", monkeypatch)
    blobs = snapshot(cache, "some/rows", CONTENT)
    assert [len(path.name) for path in blobs.values()] == [40, 64]
    before = hub_content("some/rows", FILES)
    assert [called for called, _ in before.values()] == [
        f"some/rows@{COMMIT}:a.jsonl",
        f"some/rows@{COMMIT}:sub/b.jsonl",
    ]
    assert [fingerprint(path) for _, path in before.values()] == [
        fingerprint(path) for path in blobs.values()
    ]
    snapshot(cache, "some/rows", {**CONTENT, "a.jsonl": lines(2)}, "e" * 40)
    called, path = hub_content("some/rows", FILES)["domain small"]
    assert called == f"some/rows@{'e' * 40}:a.jsonl"
    assert path.read_bytes() == lines(2)
    with pytest.raises(DataError, match=r"domains\.hub=some/rows: cannot read c\.jsonl"):
        hub_content("some/rows", {"other": "c.jsonl"})


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changed_in_the_cache_is_refused(tmp_path: Path, monkeypatch, name) -> None:
    blobs = snapshot(hub_cache(tmp_path, monkeypatch), "some/rows", CONTENT)
    blob = blobs[FILES[name]]
    entry = {"file": FILES[name], "prompts": [], "symmetric": False}
    for what, damaged in damages(blob, lines(3)):
        blob.write_bytes(damaged)
        for read in (
            lambda: domain_file(FILES[name], "", "some/rows"),
            lambda: hub_content("some/rows", FILES),
            lambda: load_domains({name: entry}, root="", hub="some/rows", only=None),
        ):
            with pytest.raises(DataError, match="is not as the hub gave it; delete") as raised:
                read()
            assert str(blob) in str(raised.value), what
