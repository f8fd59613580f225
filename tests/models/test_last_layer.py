from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tdro_lightning.losses.gradient_cache import CachedEmbeddings
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.training.strategies import checkpoint_activations
from tests.made_up import unrounded_norms

Load = Callable[..., Encoder]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
KINDS = [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config]


def whole_vectors(encoder: Encoder, texts: list[str]) -> torch.Tensor:
    """Each text alone through every layer, the last state normalised."""
    vectors = []
    for text in texts:
        ids = encoder.tokenizer([text], 64).ids[None]
        state = encoder.backbone(input_ids=ids).last_hidden_state[0, -1]
        vectors.append(state / state.norm())
    return torch.stack(vectors)


def gradients(encoder: Encoder) -> dict[str, torch.Tensor]:
    named = encoder.backbone.named_parameters()
    found = {name: p.grad.clone() for name, p in named if p.grad is not None}
    encoder.zero_grad()
    return found


@pytest.mark.parametrize("config", KINDS, ids=lambda kind: kind.model_type)
def test_every_shipped_family_runs_it(
    config: type[PretrainedConfig], load: Load, texts: list[str]
) -> None:
    sizes = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 320}
    torch.manual_seed(0)
    backbone: PreTrainedModel = AutoModel.from_config(config(**sizes)).eval()
    encoder = Encoder(backbone, load("qwen2").tokenizer, "last", 40, 64)
    seen = []
    backbone.layers[0].mlp.register_forward_hook(lambda *call: seen.append(call[2].shape[1]))
    backbone.layers[1].mlp.register_forward_hook(lambda *call: seen.append(call[2].shape[1]))
    vectors = encoder.embed_passages(texts)
    assert seen[0] > 1
    assert seen[1] == 1
    whole = whole_vectors(encoder, texts).detach().numpy()
    np.testing.assert_allclose(vectors, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [None, Lora(r=2, dropout=0.0)])
@pytest.mark.parametrize("family", ["qwen2", "llama"], indirect=True)
def test_gradients_are_those_of_all_tokens(
    load: Load, family: str, texts: list[str], lora: Lora | None, checkpointing: bool
) -> None:
    encoder = load(family, lora=lora, chunk_tokens=40, kept_tokens=120).double().train()
    for name, p in encoder.backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p)  # it starts at zero, and so would the gradient of lora_A
    if checkpointing:
        checkpoint_activations(encoder)
    tokens = encoder.tokenizer(texts, 64)
    chunks = encoder.chunks(tokens.lengths)
    assert 1 < encoder.kept_chunks(tokens.lengths, chunks) < len(chunks)
    weights = torch.randn(len(texts), 32, dtype=torch.float64)
    with unrounded_norms():
        cached = CachedEmbeddings(encoder, tokens, (1,))
        (cached.vectors * weights).sum().backward()
        cached.backward()
        ours = gradients(encoder)
        whole = whole_vectors(encoder, texts)
        (whole * weights).sum().backward()
        expected = gradients(encoder)
    assert ours.keys() == expected.keys()
    torch.testing.assert_close(cached.vectors.detach(), whole.detach(), rtol=0, atol=1e-12)
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-12)


def test_mean_pooling_needs_every_token(load: Load, texts: list[str]) -> None:
    texts = [text for text in texts if text]
    encoder = load("qwen2", pooling="mean")
    assert encoder.pooled_only == []
    assert load("bert").pooled_only == []
    assert encoder.pooling == "mean"
    states = [
        encoder.backbone(input_ids=encoder.tokenizer([text], 64).ids[None]).last_hidden_state[0]
        for text in texts
    ]
    means = torch.stack([s.mean(0) / s.mean(0).norm() for s in states]).detach().numpy()
    np.testing.assert_allclose(encoder.embed_passages(texts), means, rtol=0, atol=1e-6)
