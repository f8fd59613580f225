"""The standard library's source files and language reference, read as text and never imported."""

import ast
import hashlib
import logging
import os
import platform
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tdro_lightning.errors import DataError

TOPICS = Path("pydoc_data", "topics.py")
MAX_FILE_BYTES = 200_000
FILES_A_MESSAGE = 100

logger = logging.getLogger(__name__)

# Tests repeat themselves, and vendored copies put one text under two module names.
SKIPPED_FOLDERS = re.compile(
    r"__pycache__|node_modules|tests?|testing|turtledemo|"
    r"_?vendor(ed)?|third_?party"
)
SKIPPED_FILES = re.compile(r"(test_.*|.*_test|.*_pb2|conftest|topics)\.py$")


@dataclass(frozen=True)
class Module:
    """A parsed source file; `lines` are without line ends."""

    name: str
    lines: tuple[str, ...]
    tree: ast.Module


def standard_library() -> Path:
    """The folder of the running interpreter's standard library; installed packages lie elsewhere.

    Its folder `site-packages`, where it has one, is not read: that is no name of a package.
    """
    return Path(sysconfig.get_path("stdlib"))


def identity(library: Path) -> str:
    """SHA-256 of the Python version and of the name and content of each file that is harvested.

    Raises:
        DataError: there is no such folder.
    """
    digest = hashlib.sha256(f"{platform.python_version()}\n".encode())
    topics = [("topics", library / TOPICS)] if (library / TOPICS).is_file() else []
    for name, path in python_files(library) + topics:
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def python_files(library: Path) -> list[tuple[str, Path]]:
    """(dotted module name, path) of the files to harvest, sorted by name.

    Raises:
        DataError: there is no such folder.
    """
    if not library.is_dir():
        raise DataError(f"{library}: no such folder to harvest Python files from")
    files = []
    for folder, subfolders, names in os.walk(library):
        subfolders[:] = [
            d for d in subfolders if d.isidentifier() and not SKIPPED_FOLDERS.fullmatch(d)
        ]
        for path in (Path(folder, name) for name in names if not SKIPPED_FILES.match(name)):
            is_module = path.suffix == ".py" and path.stem.isidentifier()
            if is_module and path.stat().st_size <= MAX_FILE_BYTES:
                name = ".".join(path.relative_to(library).with_suffix("").parts)
                files.append((name.removesuffix(".__init__"), path))
    return sorted(files)


def modules(files: Sequence[tuple[str, Path]]) -> Iterator[Module]:
    """Parse the files one by one; a repeated text and a file that is not valid Python are left out.

    The standard library does hold such files, as inputs of its tests.
    """
    seen: set[int] = set()
    for number, (name, path) in enumerate(files):
        if number % FILES_A_MESSAGE == 0:
            logger.info("%d of %d source files read", number, len(files))
        try:
            with tokenize.open(path) as stream:
                text = stream.read()
            tree = _parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        if hash(text) not in seen:
            seen.add(hash(text))
            # Not `splitlines`: a form feed ends no line for the parser.
            yield Module(name, tuple(text.split("\n")), tree)


def manuals(library: Path) -> Iterator[tuple[str, str, str]]:
    """(name, title, text) of the topics of the language reference, from `pydoc_data/topics.py`."""
    if (library / TOPICS).is_file():
        for node in _parse((library / TOPICS).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                for name, text in sorted(ast.literal_eval(node.value).items()):
                    yield name, text.strip().partition("\n")[0].replace('"', ""), text


def _parse(text: str) -> ast.Module:
    # Invalid escapes in other people's files are not this program's warnings.
    with warnings.catch_warnings(action="ignore"):
        return ast.parse(text)
