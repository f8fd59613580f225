"""The hub's cache as the hub's library leaves it, without the hub."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub.constants
import pytest

COMMIT = "d56462d0e63a25450459c4f213e49ffdb866f7f9"
LARGE = 1000  # bytes from which on the hub keeps a file by its SHA-256


def hub_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Take datasets from a cache in the folder alone."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


def snapshot(
    cache: Path,
    name: str,
    files: Mapping[str, bytes],
    commit: str = COMMIT,
    kind: str = "dataset",
) -> dict[str, Path]:
    """Put a repository's commit into the cache, as the newest, and return its files' blobs."""
    home = cache / f"{kind}s--{name.replace('/', '--')}"
    (home / "blobs").mkdir(parents=True, exist_ok=True)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs/main").write_text(commit)
    blobs = {}
    for file, content in files.items():
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        digest = hashlib.sha256(content).hexdigest() if len(content) >= LARGE else git
        blobs[file] = home / "blobs" / digest
        blobs[file].write_bytes(content)
        link = home / "snapshots" / commit / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs[file])
    return blobs
