import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tdro_lightning.errors import ConfigError
from tdro_lightning.models.cross_encoder import is_cross_encoder, load_cross_encoder
from tests.made_up import cross_encoder_model

QUERIES = ["the fox", "which bridge does the river pass?", "fox", "the fox", "a"]
TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "a river runs round the old stone bridge at night",
    "",
    "green clouds, red birds and blue fish and more of it, much more " * 5,
    "b",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return cross_encoder_model(tmp_path_factory.mktemp("cross") / "model")


@pytest.mark.parametrize("chunk_tokens", [1, 60, 10_000])
def test_a_score_is_the_pair_s_own_logit(folder: str, chunk_tokens: int) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    with torch.no_grad():
        for query, text in zip(QUERIES, TEXTS, strict=True):
            ids = tokenizer([query], [text], return_tensors="pt", truncation=True, max_length=32)
            expected.append(model(**ids).logits.item())
    cross = load_cross_encoder(folder, max_tokens=32, chunk_tokens=chunk_tokens)
    scores = cross.score(QUERIES, TEXTS)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(scores) > 1e-3


def test_the_fingerprint_tells_models_and_settings_apart(folder: str, tmp_path: Path) -> None:
    cross = load_cross_encoder(folder, max_tokens=32)
    first = cross.fingerprint
    cross.score(QUERIES, TEXTS)
    assert cross.fingerprint == first == load_cross_encoder(folder, max_tokens=32).fingerprint
    with torch.no_grad():
        cross.model.classifier.bias += 1
    others = {cross.fingerprint, load_cross_encoder(folder, max_tokens=33).fingerprint}
    assert len(others | {first}) == 3


def test_what_is_a_cross_encoder(folder: str, tmp_path: Path) -> None:
    assert is_cross_encoder(folder)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert not is_cross_encoder(str(tmp_path))
    config = json.loads((Path(folder) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    assert not is_cross_encoder(str(tmp_path))
    with pytest.raises(ConfigError, match="nowhere/at/all: cannot be loaded"):
        is_cross_encoder("nowhere/at/all")


def test_what_cannot_score_is_refused(folder: str, tmp_path: Path) -> None:
    three = cross_encoder_model(tmp_path / "three", labels=3)
    with pytest.raises(ConfigError, match="a cross-encoder has 1 label, this one has 3"):
        load_cross_encoder(three, max_tokens=8)
    bare = cross_encoder_model(tmp_path / "bare")
    (Path(bare) / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="bare: cannot be loaded"):
        load_cross_encoder(bare, max_tokens=8)
    bare = cross_encoder_model(tmp_path / "pad")
    config = json.loads((Path(bare) / "config.json").read_text())
    (Path(bare) / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    with pytest.raises(ConfigError, match="name a padding token"):
        load_cross_encoder(bare, max_tokens=8)
