"""Every malformed input ends with its exit code and a message that names the place."""

import re
import shutil
from pathlib import Path

import pytest

from tdro_lightning.errors import InputError
from tdro_lightning.secrets import mask_secrets
from tests.malformed import GROUPS, Case, cases, page

ROOT = Path(__file__).parents[1]
ALL = [pytest.param(c, id=f"{g}: {c.what}") for g in GROUPS for c in cases(g)]


@pytest.mark.parametrize("case", ALL)
def test_it_ends_as_the_table_says(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError) as caught:  # `main` prints these, and ends with their code
        case.use(tmp_path)
    assert caught.value.code == case.code
    told = mask_secrets(str(caught.value)).replace(f"{tmp_path}/", "")
    pattern = ".*".join(re.escape(part) for part in case.message.split("..."))
    assert re.fullmatch(pattern, told, flags=re.DOTALL), told
    assert list(tmp_path.rglob("canary")) == []
    shutil.rmtree(tmp_path)


def test_there_are_enough_and_each_stands_once() -> None:
    whats = [(group, case.what) for group in GROUPS for case in cases(group)]
    assert len(whats) >= 100
    assert len(set(whats)) == len(whats)


def test_the_page_is_of_these_cases() -> None:
    written = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert written == page(), "make it anew: python -m tests.malformed"
