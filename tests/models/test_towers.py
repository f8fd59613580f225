"""Models that read images or sound too: only their text's tower is used, adapted and trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel

from tdro_lightning.errors import ConfigError
from tdro_lightning.models.adapter import Lora, attach_lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tests.published import FAMILIES, TEXTS, WIDTH, made_tokenizer

LIMIT = 96
IMAGES = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
SIGHT = {**IMAGES, "num_hidden_layers": 3, "image_size": 28, "patch_size": 14}
TURNS = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
KINDS: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {"sliding_window": 8,
                        "layer_types": ["sliding_attention", "full_attention"]},
        "vision_config": SIGHT, "mm_tokens_per_image": 4, "image_token_index": 3,
    },
    "qwen2_vl": {
        "text_config": {"rope_parameters": TURNS},
        "vision_config": {"depth": 3, "embed_dim": 16, "hidden_size": WIDTH, "num_heads": 2,
                          "mlp_ratio": 2},
        "image_token_id": 3, "video_token_id": 4,
    },
    "qwen2_audio": {
        "text_config": {"model_type": "qwen2"},
        "audio_config": {"d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2,
                         "encoder_ffn_dim": 16},
        "audio_token_index": 3,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose towers have layers of the same names."""
    place = tmp_path_factory.mktemp(request.param)
    tokenizer = made_tokenizer(FAMILIES["Qwen3"])
    settings = KINDS[request.param]
    text = {
        "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "vocab_size": len(tokenizer), **settings["text_config"],
    }  # fmt: skip
    config = CONFIG_MAPPING[request.param](**{**settings, "text_config": text})
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # so that texts differ
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def loaded(folder: Path, lora: Lora | None = None) -> Encoder:
    return load_encoder(
        str(folder), pooling="last", query_tokens=LIMIT, passage_tokens=LIMIT, lora=lora
    )


def trained(encoder: Encoder) -> dict[str, torch.Tensor]:
    """Two steps; returns the parameters that they moved, as they were."""
    before = {name: p.detach().clone() for name, p in encoder.named_parameters()}
    moving = [p for p in encoder.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(moving, lr=1e-2, weight_decay=0.1)
    tokens = encoder.train().tokenizer(TEXTS, LIMIT)
    for _ in range(2):
        vectors = encoder(tokens)
        (vectors @ vectors.T).square().mean().backward()
        assert all(p.grad is not None for p in moving)
        optimiser.step()
        optimiser.zero_grad()
    after = encoder.named_parameters()
    return {name: before[name] for name, p in after if not torch.equal(p, before[name])}


def test_vectors_are_those_of_the_text_tower(folder: Path) -> None:
    encoder = loaded(folder).freeze()
    model: Any = AutoModel.from_pretrained(folder).language_model.eval()
    states = []
    for text in TEXTS:
        ids = torch.tensor(
            [encoder.tokenizer([text], LIMIT).padded(torch.tensor([0]))[0].tolist()[0]]
        )
        with torch.no_grad():
            states.append(model(input_ids=ids).last_hidden_state[0, -1])
    expected = nn.functional.normalize(torch.stack(states), dim=-1).numpy()
    np.testing.assert_allclose(encoder.embed_passages(TEXTS), expected, atol=1e-5)
    assert expected.std(0).max() > 0.01


def test_an_adapter_is_on_the_text_s_layers_alone(folder: Path, tmp_path: Path) -> None:
    encoder = loaded(folder, Lora(r=4, alpha=8, dropout=0.0))
    adapted: Any = encoder.backbone
    tower = adapted.get_base_model().language_model
    inside = {id(module) for module in tower.modules()}
    layers = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    assert len(layers) == 2 * 7  # of two layers, what attention and feed-forward block have
    assert all(id(layer) in inside for layer in layers)
    others = [n for n, m in adapted.named_modules() if isinstance(m, nn.Linear) and "lora" not in n]
    assert len(others) > len(layers)  # there are linear layers elsewhere
    plain = encoder.embed_passages(TEXTS)
    moved = trained(encoder)
    assert {name.rpartition(".lora_")[0] for name in moved} == {
        f"backbone.{name}" for name, module in adapted.named_modules() if module in layers
    }
    assert all(".lora_" in name for name in moved)
    made = encoder.embed_passages(TEXTS)
    assert np.abs(made - plain).max() > 1e-3
    encoder.save(tmp_path)
    np.testing.assert_allclose(loaded(tmp_path).embed_passages(TEXTS), made, atol=1e-6)


def test_without_an_adapter_the_text_s_tower_trains(folder: Path) -> None:
    encoder = loaded(folder)
    moved = trained(encoder)
    text: Any = encoder.backbone
    own = {f"backbone.language_model.{n}" for n, _ in text.language_model.named_parameters()}
    assert moved.keys() == own
    assert {n for n, p in encoder.named_parameters() if p.requires_grad} == own


def test_an_unknown_tower_gets_no_adapter(folder: Path) -> None:
    model: Any = AutoModel.from_pretrained(folder)
    kind = model.config.model_type
    model.language_model = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=f"which layers of {kind} read text is not known"):
        attach_lora(model, Lora())
