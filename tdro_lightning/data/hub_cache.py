"""What the Hugging Face hub's cache holds: snapshots of commits, files under their checksums."""

import hashlib
import re
from pathlib import Path

from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint

_BLOB = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def require_undamaged(path: Path) -> None:
    """Compare a file, or all files below a folder, with the checksums that the hub gave them.

    In the cache a snapshot's file is a link to one whose name is its checksum: SHA-256 of large
    files, git's SHA-1 of others. Files without such a name pass.

    Raises:
        DataError: names the first file that has changed since it was downloaded.
    """
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        blob = file.resolve()
        if not file.is_file() or blob.parent.name != "blobs" or not _BLOB.fullmatch(blob.name):
            continue
        if blob.name != (fingerprint(blob) if len(blob.name) == 64 else _git_sha1(blob)):
            raise DataError(
                f"{file}: is not as the hub gave it; delete {blob}, and it is downloaded again"
            )


def cached_commit(name: str, kind: str) -> str | None:
    """The commit of a hub repository that the cache holds as its newest; None where it has none.

    Args:
        name: of the repository, with `@revision` where it is not the main branch's.
        kind: `model` or `dataset`.
    """
    from huggingface_hub import constants

    repository, _, revision = name.partition("@")
    home = Path(constants.HF_HUB_CACHE) / f"{kind}s--{repository.replace('/', '--')}"
    reference = home / "refs" / (revision or "main")
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    return commit if commit and (home / "snapshots" / commit).is_dir() else None


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    blob = b"blob %d\0" % len(content) + content
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest()
