"""What the README, docs/ and the other pages tell people to type must work."""

import re
import shlex
from pathlib import Path

import pytest

from tests.test_configs import composed

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "experiments/README.md")),
]
README = PAGES[0].read_text()
TEXT = "\n".join(page.read_text() for page in PAGES).replace("\\\n", " ")
LAUNCHER = r"(?:torchrun|python -m tdro_lightning\.distributed\.launcher) .+?"
START = rf"^ *(?:srun )?(?:python|{LAUNCHER}) -m tdro_lightning (.+)$"
COMMANDS = re.findall(START, TEXT, flags=re.MULTILINE)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8
    everything = re.findall(r"^ *(?:srun )?(?:python|torchrun) -.*", TEXT, flags=re.MULTILINE)
    assert len(everything) == len(COMMANDS)  # none escapes by the way it is written


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index


def test_every_record_is_in_its_index() -> None:
    index = (ROOT / "experiments" / "README.md").read_text()
    for page in (ROOT / "experiments").glob("*/README.md"):
        assert f"]({page.parent.name}/README.md)" in index


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs" / "report.png").stat().st_size < 200_000


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str) -> None:
    shown = ("-m", "--cfg", "job", "--resolve")
    given = [a for a in shlex.split(command) if a not in shown]
    arguments = [a for a in given if not a.startswith(("hydra.", "hydra/", "--config-dir"))]
    first_values = [re.sub(r"=([^\[{,\"]+),.*", r"=\1", argument) for argument in arguments]
    assert composed(*first_values).stage


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_is_named_exists(page: Path) -> None:
    places = (ROOT / "tdro_lightning", ROOT, page.parent)
    for name in re.findall(r"`([a-z_/]+/[a-z_]+\.py)[:`]", page.read_text(encoding="utf-8")):
        assert any((place / name).exists() for place in places), name
