"""The rules that keep the project easy to see: layers, sizes, names, packaging."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "tdro_lightning").rglob("*.py"))


def test_import_contracts_hold() -> None:
    """The core knows no framework, and configuration stops at the door."""
    found = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},  # its lines are wrapped on a narrow terminal
    )
    assert found.returncode == 0, found.stdout
    assert "0 broken" in found.stdout


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert max(lengths.values()) <= 350
    assert sorted(lengths.values())[len(lengths) // 2] < 130


@pytest.mark.parametrize(
    "path",
    [ROOT / "tdro_lightning/training" / name for name in ("tdro.py", "finetune.py", "mntp.py")],
)
def test_modules_are_thin(path: Path) -> None:
    """At most 150 lines, 10 methods and 8 constructor arguments."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
            assert len(methods) <= 10
            constructor = next(n for n in methods if n.name == "__init__")
            assert len(constructor.args.args) - 1 <= 8


def test_a_chain_with_nothing_to_do_waits_for_no_large_library() -> None:
    code = "import sys, tdro_lightning.stages.chain; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    large = {"torch", "lightning", "transformers", "datasets", "pyarrow", "pandas"}
    assert not large & set(found.stdout.split())


def test_names_say_what_a_file_is() -> None:
    for path in SOURCES:
        for word in ("util", "helper", "common", "manager", "misc", "_v2"):
            assert word not in path.stem, path


def test_malicious_releases_are_excluded() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lightning = next(d for d in project["dependencies"] if d.startswith("lightning"))
    assert "!=2.6.2" in lightning
    assert "!=2.6.3" in lightning
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line
    )
    assert pinned["torch"] == "2.13.0"
    assert pinned["lightning"] == pinned["pytorch-lightning"] == "2.6.6"


def test_the_wheel_holds_configuration_and_templates(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"tdro_lightning/conf/{path.relative_to(ROOT / 'conf').as_posix()}" in names
    assert "tdro_lightning/report/page.html.j2" in names
    assert "tdro_lightning/export/card.md.j2" in names
    assert "tdro_lightning/report/published/tdro.json" in names
    assert not any(name.startswith(("tests/", "conf/")) for name in names)


def test_every_answer_of_the_architecture_page_holds() -> None:
    """A path in the package, and a name that is defined in it."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    answers = re.findall(r"^\| .+ \| `([\w/.]+)`: `(\w+)` \|$", page, flags=re.MULTILINE)
    assert len(answers) >= 10
    for path, name in answers:
        tree = ast.parse((ROOT / "tdro_lightning" / path).read_text(encoding="utf-8"))
        nodes = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef)]
        assigned = [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]
        assigned += [n.target.id for n in tree.body if isinstance(n, ast.AnnAssign)]
        assert name in {*(node.name for node in nodes), *assigned}, f"{path}: {name}"
    for path in re.findall(r"`([a-z_]+/[\w/]+\.py)`", page):
        assert (ROOT / "tdro_lightning" / path).is_file(), path
    rooms = {path.name for path in (ROOT / "tdro_lightning").iterdir() if path.is_dir()}
    for room in rooms - {"__pycache__", "conf"}:
        assert f"{room}/" in page, room


def test_the_root_holds_few_modules() -> None:
    modules = {p.stem for p in (ROOT / "tdro_lightning").glob("*.py")} - {"__init__"}
    assert len(modules) <= 5, modules


def test_no_name_has_two_meanings() -> None:
    """Classes and public functions of modules, but for `main` and what a stage's file repeats."""
    places: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    twice = {name: where for name, where in places.items() if len(where) > 1 and name != "main"}
    assert not twice


PARTICIPLES = re.compile(r"[a-z]+(ed|ing)|made|told|known|begun|drawn|written|shown|given|kept")
NOUNS = ("shingle_hashing", "string", "embedding", "pooling")


def test_no_public_name_is_a_bare_participle() -> None:
    for path in SOURCES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name not in NOUNS:
                assert not PARTICIPLES.fullmatch(node.name), f"{path}: {node.name}"


@pytest.mark.parametrize("word", ["mend", "mended", "told", "stands twice", "heard of", "goes on"])
def test_words_that_readers_do_not_look_for_do_not_occur(word: str) -> None:
    pattern = re.compile(rf"\b{word}\b", re.IGNORECASE)
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "conf").rglob("*.yaml")]
    for path in [*SOURCES, *pages, *(ROOT / "tdro_lightning").rglob("*.j2")]:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [f"{path}:{i}: {text}" for i, text in enumerate(lines, 1) if pattern.search(text)]
        assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("private", "file"),
    [
        (r"from hydra\._internal|OverridesParser", "config/composition.py"),
        (r"_set_SIGCHLD_handler", "assembly/fit.py"),
    ],
)
def test_private_parts_of_libraries_are_used_in_one_file(private: str, file: str) -> None:
    package = ROOT / "tdro_lightning"
    using = [p for p in package.rglob("*.py") if re.search(private, p.read_text(encoding="utf-8"))]
    assert using == [package / file]
