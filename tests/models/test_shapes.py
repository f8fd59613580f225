from typing import Any

import pytest
import torch

from tdro_lightning.errors import ConfigError
from tdro_lightning.models.shapes import from_architecture

SMALL: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}


def test_on_meta_nothing_is_allocated() -> None:
    huge = SMALL | {"hidden_size": 2**16, "intermediate_size": 2**18, "vocab_size": 10**6}
    model = from_architecture(huge, dtype=torch.bfloat16)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert sum(p.numel() for p in model.parameters()) > 10**11


def test_on_the_cpu_it_runs_and_the_seed_decides_the_weights() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one, same, other = (from_architecture(SMALL, "cpu", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)  # the caller's generator has not moved
    assert torch.equal(one.embed_tokens.weight, same.embed_tokens.weight)
    assert not torch.equal(one.embed_tokens.weight, other.embed_tokens.weight)
    states = one(input_ids=torch.tensor([[1, 2, 3]])).last_hidden_state
    assert states.shape == (1, 3, 32)
    assert one.config._attn_implementation == "sdpa"
    assert not one.config.use_cache


def test_rope_parameters_reach_the_model() -> None:
    theta = {"rope_parameters": {"rope_type": "default", "rope_theta": 1234.0}}
    assert from_architecture(SMALL | theta).config.rope_parameters["rope_theta"] == 1234.0
    older = from_architecture(SMALL | {"rope_theta": 1234.0})
    assert older.config.rope_parameters["rope_theta"] == 1234.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2x"}, r"model\.architecture\.model_type=qwen2x .*did you mean qwen2"),
        ({"model_type": None}, r"model\.architecture\.model_type=None is not a model"),
        (
            {"num_hidden_layer": 3},
            r"\.num_hidden_layer is not a field of qwen2; did you mean num_hidden_layers",
        ),
        ({"hidden_size": "wide"}, r"model\.architecture: .*'hidden_size' expected int, got str"),
    ],
)
def test_a_wrong_architecture_names_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_architecture(SMALL | changes)


def test_an_architecture_without_a_type_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.architecture\.model_type=None"):
        from_architecture({"hidden_size": 8})
