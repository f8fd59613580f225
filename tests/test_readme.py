"""What the README tells people to type must work."""

import re
import shlex
from pathlib import Path

import pytest

from tests.test_configs import composed

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^(?:python|torchrun .+) -m tdro_lightning (.+)$", README, flags=re.M)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes(command: str) -> None:
    arguments = [a for a in shlex.split(command) if a != "-m"]
    first_values = [re.sub(r"=([^\[,]+),.*", r"=\1", argument) for argument in arguments]
    assert composed(*first_values).stage


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
