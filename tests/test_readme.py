"""What the README and docs/ tell people to type must work."""

import re
import shlex
from pathlib import Path

import pytest

from tests.test_configs import composed

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()
TEXT = "\n".join(page.read_text() for page in PAGES).replace("\\\n", " ")
START = r"^ *(?:srun )?(?:python|torchrun .+?) -m tdro_lightning (.+)$"
COMMANDS = re.findall(START, TEXT, flags=re.MULTILINE)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str) -> None:
    arguments = [a for a in shlex.split(command) if a != "-m" and not a.startswith("hydra")]
    first_values = [re.sub(r"=([^\[,]+),.*", r"=\1", argument) for argument in arguments]
    assert composed(*first_values).stage


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link
