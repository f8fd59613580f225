"""Files of rows that cannot be used as a whole."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

from tdro_lightning.data.domains import load_domains
from tdro_lightning.files import fingerprint
from tests.malformed import Case
from tests.malformed.rows import good, loaded

ROWS = b"".join(json.dumps(good(f"q{i}")).encode() + b"\n" for i in range(300))


def named(name: str) -> Callable[[Path], None]:
    """Load a domain of a file that is not written first."""

    def use(folder: Path) -> None:
        entry = {"file": name, "prompts": [], "symmetric": False}
        load_domains({"nq": entry}, root=str(folder), hub=None, only=None)

    return use


def folder_for_a_file(folder: Path) -> None:
    (folder / "nq.jsonl").mkdir()
    named("nq.jsonl")(folder)


def flipped(folder: Path) -> None:
    content = bytearray(gzip.compress(ROWS, mtime=0))
    content[len(content) // 2] ^= 0x55
    loaded(folder, bytes(content), "nq.jsonl.gz")


CASES = [
    Case("no file", named("nq.jsonl"), 3, "nq.jsonl: no such file; set domains.root to ..."),
    Case(
        "a pattern",
        named("*.jsonl"),
        3,
        "*.jsonl: no such file (a domain is one file, not a pattern); set domains.root to ...",
    ),
    Case("a folder", folder_for_a_file, 3, "nq.jsonl: is a folder; a domain is one .jsonl or ..."),
    Case("an empty file", lambda f: loaded(f, b""), 3, "nq.jsonl: no rows in it"),
    Case("blank lines only", lambda f: loaded(f, b"\n \n\r\n"), 3, "nq.jsonl: no rows in it"),
    Case(
        "an empty gzip file",
        lambda f: loaded(f, gzip.compress(b""), "nq.jsonl.gz"),
        3,
        "nq.jsonl.gz: no rows in it",
    ),
    Case(
        "a gzip file that is cut off",
        lambda f: loaded(f, gzip.compress(ROWS)[:-20], "nq.jsonl.gz"),
        3,
        "nq.jsonl.gz: damaged gzip file after line ...",
    ),
    Case("a gzip file with other bits", flipped, 3, "nq.jsonl.gz...:..."),
    Case(
        "a plain file named .gz",
        lambda f: loaded(f, ROWS, "nq.jsonl.gz"),
        3,
        "nq.jsonl.gz: damaged gzip file after line 0 (...)",
    ),
    Case(
        "a gzip file named .jsonl",
        lambda f: loaded(f, gzip.compress(ROWS)),
        3,
        "nq.jsonl:1: not UTF-8 (...)",
    ),
    Case(
        "one JSON list for a file",
        lambda f: loaded(f, b"[" + ROWS.replace(b"}\n{", b"},\n{") + b"]"),
        3,
        "nq.jsonl:1: not valid JSON (the file is one list; write one object a line)",
    ),
    Case(
        "a run's input is missing", lambda f: fingerprint(f / "x"), 3, "x: no such file or folder"
    ),
]
