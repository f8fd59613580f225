"""Receipts of finished work: what it was made from, and the checksum of each of its files.

Whoever takes up earlier work reads its receipt first. Where the receipt or a file is no longer
what it was, the work is done again, with one line that names the file; it is never used.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tdro_lightning.errors import DataError
from tdro_lightning.files import fingerprint, read_json, require_checksum, write_checked_json

logger = logging.getLogger(__name__)


def write_receipt(
    path: Path,
    made_from: Mapping[str, Any],
    files: Iterable[Path],
    result: Mapping[str, Any] | None = None,
) -> None:
    """Write the receipt of files that are whole.

    Args:
        path: of the receipt.
        made_from: all that the work depends on, as JSON.
        files: what the work wrote; they may be moved together with the receipt.
        result: what else came of it, as JSON.
    """
    content = {
        "made_from": made_from,
        "files": {os.path.relpath(file, path.parent): fingerprint(file) for file in files},
        "result": result or {},
    }
    write_checked_json(path, content)


def read_receipt(path: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of finished work, None where there is no receipt.

    Raises:
        DataError: the work was made from something else, or the receipt or a file of it is damaged
            or missing.
    """
    if not path.is_file():
        return None
    content = read_json(path)
    if not require_checksum(path, content):
        raise DataError(f"{path}: has no checksum")
    now, then = json.loads(json.dumps(made_from)), content["made_from"]
    if now != then:
        others = [key for key in {**now, **then} if now.get(key, "") != then.get(key, "")]
        raise DataError(f"{path}: was made with another {', '.join(others)}")
    for name, expected in content["files"].items():
        file = Path(os.path.normpath(path.parent / name))
        if fingerprint(file) != expected:
            raise DataError(f"{file}: is not as it was written")
    return dict(content["result"])


def finished_result(path: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of finished work, None where it must be done; a warning says why, where it was."""
    try:
        return read_receipt(path, made_from)
    except DataError as error:
        logger.warning("%s; made again", error)
        return None
