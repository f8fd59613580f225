from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.data.domains import Domain, load_domains
from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.retrieval.tokenizer import TextTokenizer
from tests.made_up import tiny_model

MakeDomain = Callable[..., Domain]


@pytest.fixture
def make_domain(tmp_path: Path) -> MakeDomain:
    """Write rows to a file and load them as a domain."""

    def make(
        name: str,
        rows: Sequence[Mapping[str, Any]],
        prompts: Sequence[str] = (),
        symmetric: bool = False,
    ) -> Domain:
        write_rows(tmp_path / f"{name}.jsonl", rows)
        entry = {"file": f"{name}.jsonl", "prompts": list(prompts), "symmetric": symmetric}
        return load_domains({name: entry}, root=str(tmp_path), hub=None, only=None)[0]

    return make


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer.load(tiny_model(tmp_path_factory.mktemp("tiny")), "last")
