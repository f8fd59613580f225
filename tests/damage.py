"""Damaged versions of a file, as a failing disk, a broken copy or a wrong writer leaves them."""

import gzip
import io
import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

WORD = 4  # bytes of a float32


def damages(path: Path, older: bytes | None = None) -> Iterator[tuple[str, bytes]]:
    """What was done, and the whole content of the file then; no two are equal, or the file's own.

    Args:
        path: the file; it is only read.
        older: an earlier content of it, which is put back as it was.
    """
    content = path.read_bytes()
    middle = len(content) // 2
    found = {
        "a bit flipped in the middle": _flipped(content, middle),
        "a bit flipped in the last byte": _flipped(content, len(content) - 1),
        "the last 1,000 bytes zeroed": content[:-1000] + bytes(min(1000, len(content))),
        "half of it cut off": content[:middle],
        "the end cut off": content.rstrip(b"\n")[:-1],  # a line's end alone may mean nothing
        "emptied": b"",
        "two words swapped": _words_swapped(content),
        **_rewritten(path.name, content),
    }
    if older is not None:
        found["an older version put back"] = older
    seen = {content}
    for name, damaged in found.items():
        if damaged not in seen:
            seen.add(damaged)
            yield name, damaged


def _flipped(content: bytes, place: int) -> bytes:
    if not content:
        return b"\x01"
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def _words_swapped(content: bytes) -> bytes:
    """The last two neighbouring words that differ, exchanged: of most formats they are values."""
    for end in range(len(content), 2 * WORD - 1, -WORD):
        one, other = content[end - 2 * WORD : end - WORD], content[end - WORD : end]
        if one != other:
            return content[: end - 2 * WORD] + other + one + content[end:]
    return content


def _rewritten(name: str, content: bytes) -> dict[str, bytes]:
    """Damage that leaves the format whole, where it is known by the name."""
    if name.endswith(".npy"):
        return _arrays(np.load(io.BytesIO(content)))
    if name.endswith(".json"):
        return _objects(content)
    if name.endswith(".jsonl.gz"):
        return {"two lines swapped": gzip.compress(_lines_swapped(gzip.decompress(content)))}
    if name.endswith((".jsonl", ".csv", ".tsv")):
        return {"two lines swapped": _lines_swapped(content)}
    return {}


def _arrays(values: np.ndarray[Any, Any]) -> dict[str, bytes]:
    swapped = values.copy()
    flat = swapped.reshape(-1)
    others = np.flatnonzero(flat != flat[0])
    if len(others):
        flat[[0, others[0]]] = flat[[others[0], 0]]
    made = {
        "two values swapped": swapped,
        "rolled by a row": np.roll(values, 1, axis=0),
        "a row less": values[:-1],
        "other numbers": values + 1,
    }
    found = {}
    for name, changed in made.items():
        stream = io.BytesIO()
        np.save(stream, changed)
        found[name] = stream.getvalue()
    return found


def _objects(content: bytes) -> dict[str, bytes]:
    """Of each type of value, the first two different ones exchanged."""
    found = {}
    for kind in (float, int, str):
        value = json.loads(content)
        leaves = [leaf for leaf in _leaves(value) if type(leaf[0][leaf[1]]) is kind]
        for (one, key), (other, place) in combinations(leaves, 2):
            if one[key] != other[place]:
                one[key], other[place] = other[place], one[key]
                text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
                found[f"two values ({kind.__name__}) swapped"] = text.encode()
                break
    return found


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    """Container and key of every value that is no container itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list):
            yield from _leaves(inner)
        else:
            yield value, key


def _lines_swapped(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:-2], *lines[:-3:-1]])
