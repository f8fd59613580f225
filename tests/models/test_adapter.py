import json
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from tdro_lightning.errors import ConfigError
from tdro_lightning.models.adapter import Lora, attach_lora, load_adapter
from tdro_lightning.models.model_files import ADAPTER_WEIGHTS, base_model
from tests.made_hub import hub_cache


def test_paper_sizes() -> None:
    assert Lora() == Lora(r=8, alpha=32, dropout=0.1)


def test_every_linear_layer_and_nothing_else_trains(folders: dict[str, Path], family: str) -> None:
    backbone = AutoModel.from_pretrained(folders[family])
    linear = {name: m for name, m in backbone.named_modules() if isinstance(m, nn.Linear)}
    expected = sum(4 * (m.in_features + m.out_features) for m in linear.values())
    adapted = attach_lora(backbone, Lora(r=4, alpha=16, dropout=0.2))
    layers = {
        name.removeprefix("base_model.model."): m
        for name, m in adapted.named_modules()
        if isinstance(m, LoraLayer)
    }
    assert layers.keys() == linear.keys()
    for layer in layers.values():
        assert layer.scaling == {"default": 16 / 4}
        assert layer.lora_dropout["default"].p == 0.2
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_A" in name or "lora_B" in name for name in trained)
    assert sum(p.numel() for p in trained.values()) == expected


def test_a_fresh_adapter_changes_nothing_and_a_step_moves_only_it(folders: dict[str, Path]) -> None:
    ids = torch.tensor([[5, 9, 30, 7]])
    plain = AutoModel.from_pretrained(folders["qwen2"])
    before = plain(ids).last_hidden_state.detach()
    frozen = {name: weight.clone() for name, weight in plain.state_dict().items()}
    adapted = attach_lora(plain, Lora(r=2, alpha=4, dropout=0.0))
    torch.testing.assert_close(adapted(ids).last_hidden_state, before, rtol=0, atol=1e-6)
    optimiser = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    adapted(ids).last_hidden_state[0, 0].sum().backward()
    optimiser.step()
    assert (adapted(ids).last_hidden_state - before).abs().max() > 1e-3
    adapted.unload()
    for name, weight in adapted.base_model.model.state_dict().items():
        assert torch.equal(weight, frozen[name]), name


def written(folder: Path, base: str | None) -> str:
    folder.mkdir(parents=True)
    settings = {"peft_type": "LORA", "base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file({}, folder / ADAPTER_WEIGHTS)
    return str(folder)


def test_a_base_model_by_name_or_relative_to_the_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_cache(tmp_path / "hub", monkeypatch)  # nobody is asked for the name
    (tmp_path / "model").mkdir()
    assert base_model(written(tmp_path / "a/hub", "Qwen/Qwen1.5-0.5B")) == "Qwen/Qwen1.5-0.5B"
    assert base_model(written(tmp_path / "a/near", "../../model")) == str(tmp_path / "model")
    assert base_model(str(tmp_path / "model")) is None
    with pytest.raises(ConfigError, match="names no base_model_name_or_path"):
        base_model(written(tmp_path / "none", None))


def test_an_adapter_whose_weights_have_other_names_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    backbone = AutoModel.from_pretrained(folders["qwen2"])
    attach_lora(backbone, Lora()).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    # As of a model with a head for the next token, whose layers are one level deeper.
    deeper = {name.replace(".layers", ".model.layers"): w for name, w in weights.items()}
    save_file(deeper, tmp_path / "adapter_model.safetensors")
    plain = AutoModel.from_pretrained(folders["qwen2"])
    with pytest.raises(ConfigError, match="does not fit its base model: 28 weights are missing"):
        load_adapter(plain, str(tmp_path))
