"""Python source files, language-reference topics and READMEs, read as text and never imported."""

import ast
import hashlib
import logging
import os
import re
import sysconfig
import tokenize
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tdro_lightning.errors import DataError

FILES_PER_PACKAGE = 30
MAX_FILES = 1200
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


@dataclass(frozen=True)
class Manual:
    """A longer text about one subject: a language-reference topic or a README."""

    name: str
    title: str
    text: str


def default_roots() -> list[Path]:
    """The running interpreter's standard library and its installed packages, where they exist."""
    paths = (Path(sysconfig.get_path(key)) for key in ("stdlib", "purelib"))
    return [path for path in paths if path.is_dir()]


def python_files(roots: Sequence[Path]) -> list[tuple[str, Path]]:
    """(dotted module name, path) of the files to harvest, sorted by name.

    At most `FILES_PER_PACKAGE` of a top-level package and `MAX_FILES` altogether, those whose names
    hash lowest: whatever is installed, the choice is repeatable and its cost is bounded.

    Raises:
        DataError: a root is not a folder.
    """
    packages: dict[str, dict[str, Path]] = defaultdict(dict)
    for root in roots:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder to harvest Python files from")
        for path in _walk(root):
            name = _module_name(path.relative_to(root))
            packages[name.partition(".")[0]].setdefault(name, path)
    kept: dict[str, Path] = {}
    for files in packages.values():
        for name in sorted(files, key=_hash)[:FILES_PER_PACKAGE]:
            kept[name] = files[name]
    return [(name, kept[name]) for name in sorted(sorted(kept, key=_hash)[:MAX_FILES])]


def modules(files: Sequence[tuple[str, Path]]) -> Iterator[Module]:
    """Parse the files one by one; a repeated text and a file that is not valid Python are left out.

    Installed packages do hold such files, as templates or for other Python versions.
    """
    seen: set[bytes] = set()
    for number, (name, path) in enumerate(files):
        if number % FILES_A_MESSAGE == 0:
            logger.info("%d of %d source files read", number, len(files))
        try:
            with tokenize.open(path) as stream:
                text = stream.read()
            digest = hashlib.sha256(text.encode()).digest()
            tree = _parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        if digest not in seen:
            seen.add(digest)
            # Not `splitlines`: a form feed ends no line for the parser.
            yield Module(name, tuple(text.split("\n")), tree)


def manuals(roots: Sequence[Path]) -> Iterator[Manual]:
    """The topics of `pydoc_data/topics.py` and the README of every distribution below `roots`."""
    for root in roots:
        path = root / "pydoc_data" / "topics.py"
        if path.is_file():
            yield from _topics(path)
    found = {}
    for distribution in metadata.distributions(path=[str(root) for root in roots]):
        fields = distribution.metadata.json
        name, text = fields.get("name"), fields.get("description")
        if isinstance(name, str) and isinstance(text, str):
            found[name.lower()] = Manual(name, f"{name}, {fields.get('summary', '')}", text)
    yield from (found[name] for name in sorted(found))


def packages(roots: Sequence[Path]) -> dict[str, str]:
    """Version of every distribution below `roots`, by name."""
    found = metadata.distributions(path=[str(root) for root in roots])
    return dict(sorted((d.name, d.version) for d in found if d.name))


def _topics(path: Path) -> Iterator[Manual]:
    for node in _parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for name, text in sorted(ast.literal_eval(node.value).items()):
                yield Manual(name, text.strip().partition("\n")[0].replace('"', ""), text)


def _walk(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(
            d for d in subfolders if d.isidentifier() and not SKIPPED_FOLDERS.fullmatch(d)
        )
        for file in sorted(files):
            path = Path(folder, file)
            if file.endswith(".py") and not SKIPPED_FILES.match(file):
                stem = path.stem
                if stem.isidentifier() and path.stat().st_size <= MAX_FILE_BYTES:
                    yield path


def _module_name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _parse(text: str) -> ast.Module:
    with warnings.catch_warnings():
        # Invalid escapes in other people's files are not this program's warnings.
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return ast.parse(text)
