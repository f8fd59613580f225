from pathlib import Path

import pytest

from tdro_lightning.demo import sources
from tdro_lightning.errors import DataError


def write(root: Path, name: str, text: str = "x = 1\n") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_module_names_and_what_is_left_out(tmp_path: Path) -> None:
    kept = {"a/__init__.py": "a", "a/b.py": "a.b", "c.py": "c"}
    skipped = ["a/test_b.py", "a/tests/b.py", "a/_vendor/b.py", "d-1.dist-info/x.py", "a/b-c.py"]
    for name in [*kept, *skipped]:
        write(tmp_path, name)
    write(tmp_path, "a/large.py", "#" * (sources.MAX_FILE_BYTES + 1))
    assert sources.python_files(tmp_path) == [(kept[n], tmp_path / n) for n in sorted(kept)]


def test_modules_are_parsed_not_run_and_texts_come_once(tmp_path: Path) -> None:
    write(tmp_path, "a.py", 'raise SystemExit("imported")\n')
    write(tmp_path, "b.py", 'raise SystemExit("imported")\n')
    write(tmp_path, "broken.py", "def (:\n")
    write(tmp_path, "escape.py", 'x = "\\d"\n')
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    found = list(sources.modules(sources.python_files(tmp_path)))
    assert [module.name for module in found] == ["a", "escape"]


def test_manuals_are_the_topics(library: Path, tmp_path: Path) -> None:
    titles = {name: title for name, title, _ in sources.manuals(library)}
    assert titles["harbour"] == "The harbour statement"
    assert list(sources.manuals(tmp_path)) == []


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: no such folder"):
        sources.python_files(tmp_path / "absent")


def test_the_standard_library_is_found_without_what_is_installed() -> None:
    library = sources.standard_library()
    assert (library / "argparse.py").is_file()
    names = [name for name, _ in sources.python_files(library)]
    assert "argparse" in names
    assert not [name for name in names if name.startswith(("torch", "pytest", "tdro_lightning"))]


def test_the_identity_is_of_names_contents_and_topics(tmp_path: Path) -> None:
    write(tmp_path, "a.py")
    write(tmp_path, "pydoc_data/topics.py", "topics = {}\n")
    found = [sources.identity(tmp_path)]
    write(tmp_path, "a/notes.txt", "not harvested")
    assert sources.identity(tmp_path) == found[0]
    write(tmp_path, "pydoc_data/topics.py", "topics = {'with': 'text'}\n")
    found.append(sources.identity(tmp_path))
    write(tmp_path, "a.py", "x = 2\n")
    found.append(sources.identity(tmp_path))
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    found.append(sources.identity(tmp_path))
    assert len(set(found)) == 4
