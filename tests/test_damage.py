"""The damaged versions are what they are called."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.damage import damages

VALUES = np.arange(600, dtype=np.float32).reshape(-1, 3)


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, VALUES)
    return stream.getvalue()


FILES = {
    "values.npy": npy(),
    "some.json": json.dumps({"a": 0.25, "b": [0.75, 1, 2, "x"], "c": "y", "n": None}).encode(),
    "rows.jsonl": b'{"a": 1}\n{"a": 2}\n{"a": 3}\n',
    "rows.jsonl.gz": gzip.compress(b'{"a": 1}\n{"a": 2}\n{"a": 3}\n'),
    "weights.bin": np.random.default_rng(0).bytes(5000),
    "nothing.bin": b"",
}


@pytest.mark.parametrize("name", FILES)
def test_every_version_differs_and_the_file_stays(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    found = dict(damages(path, b"as it was before"))
    assert path.read_bytes() == FILES[name]
    assert len({FILES[name], *found.values()}) == len(found) + 1
    assert found["an older version put back"] == b"as it was before"
    assert len(found) > 6 or not FILES[name]


def test_values_change_their_places(tmp_path: Path) -> None:
    made = {}
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
        made[name] = dict(damages(tmp_path / name))
    rolled = np.load(io.BytesIO(made["values.npy"]["rolled by a row"]))
    np.testing.assert_array_equal(rolled[1:], VALUES[:-1])
    swapped = np.load(io.BytesIO(made["values.npy"]["two values swapped"]))
    assert swapped[0].tolist() == [1, 0, 2]
    numbers = json.loads(made["some.json"]["two values (float) swapped"])
    assert numbers == {"a": 0.75, "b": [0.25, 1, 2, "x"], "c": "y", "n": None}
    turned = b'{"a": 1}\n{"a": 3}\n{"a": 2}\n'
    assert made["rows.jsonl"]["two lines swapped"] == turned
    assert gzip.decompress(made["rows.jsonl.gz"]["two lines swapped"]) == turned
