from pathlib import Path

import pytest

from tdro_lightning.data.python_docs import sources
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
    assert sources.python_files([tmp_path]) == [(kept[n], tmp_path / n) for n in sorted(kept)]


def test_a_large_package_gives_no_more_than_its_share(tmp_path: Path) -> None:
    for i in range(2 * sources.FILES_PER_PACKAGE):
        write(tmp_path, f"big/m{i}.py")
    write(tmp_path, "small.py")
    names = [name for name, _ in sources.python_files([tmp_path])]
    assert len(names) == sources.FILES_PER_PACKAGE + 1
    assert "small" in names
    assert names == sorted(names)


def test_modules_are_parsed_not_run_and_texts_come_once(tmp_path: Path) -> None:
    write(tmp_path, "a.py", 'raise SystemExit("imported")\n')
    write(tmp_path, "b.py", 'raise SystemExit("imported")\n')
    write(tmp_path, "broken.py", "def (:\n")
    write(tmp_path, "escape.py", 'x = "\\d"\n')
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    found = list(sources.modules(sources.python_files([tmp_path])))
    assert [module.name for module in found] == ["a", "escape"]


def test_manuals_are_topics_and_readmes(library: Path) -> None:
    found = {manual.name: manual for manual in sources.manuals([library])}
    assert found["harbour"].title == "The harbour statement"
    assert found["made"].title == "made, Made up records"
    assert found["made"].text.startswith("This package reads")
    assert sources.packages([library]) == {"made": "1.5"}


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: no such folder"):
        sources.python_files([tmp_path / "absent"])


def test_default_roots_hold_the_standard_library() -> None:
    assert (sources.default_roots()[0] / "argparse.py").is_file()
