"""A sparse encoder's folder as sentence-transformers reads it, and as it is read here again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tdro_lightning.errors import ConfigError
from tdro_lightning.export.proof import check_readers, embed_sample
from tdro_lightning.export.sparse_folder import write_language_model
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseShape
from tests.models.test_sparse_encoder import KINDS, TEXTS, loaded

PROMPTS = {"query": "Find it"}
CASES: dict[str, dict[str, Any]] = {
    "tied": {"lora": Lora(2, 4, 0.0), "bidirectional": True},
    "untied": {},
    "masked": {"lora": Lora(2, 4, 0.0)},
}


def trained(path: str, shape: SparseShape, **settings: Any) -> Encoder:
    """An encoder some steps later."""
    encoder = loaded(path, shape, **settings)
    optimiser = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        encoder(encoder.tokenizer(TEXTS, 24)).square().mean().backward()
        optimiser.step()
    return encoder.eval()


@pytest.mark.parametrize("kind", CASES)
def test_sentence_transformers_reads_the_same_vectors(tmp_path: Path, kind: str) -> None:
    path = KINDS[kind][0](tmp_path / "model")
    encoder = trained(path, SparseShape("quarter", "all", kind == "untied"), **CASES[kind])
    sample = embed_sample(encoder, "Find it")
    write_language_model(encoder, path, tmp_path / "export", PROMPTS)
    checks = check_readers(sample, tmp_path / "export", None, None)
    assert [check.way.partition(",")[0].split()[0] for check in checks] == [
        "sentence-transformers"
    ] * 2
    for check in checks:
        assert check.difference < 2e-5
    again = load_encoder(
        str(tmp_path / "export"), pooling="last", query_tokens=24, passage_tokens=24
    )
    np.testing.assert_allclose(
        again.embed_passages(sample.documents).toarray(), sample.vectors["documents"], atol=2e-5
    )


def test_tokens_that_it_cannot_leave_out_are_refused(tmp_path: Path) -> None:
    path = KINDS["tied"][0](tmp_path / "model")
    encoder = loaded(path, SparseShape(pooled="no_special"))
    with pytest.raises(ConfigError, match="model.sparse.pooled=no_special: cannot be exported"):
        write_language_model(encoder, path, tmp_path / "export", PROMPTS)
