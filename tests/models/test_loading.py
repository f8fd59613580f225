"""Encoders saved and loaded again; folders that are none; attention kernels."""

import json
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from tdro_lightning.errors import ConfigError
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder, select_attention
from tdro_lightning.models.templates import PAPER

Load = Callable[..., Encoder]


def test_saved_and_loaded_again(load: Load, family: str, texts: list[str], tmp_path: Path) -> None:
    encoder = load(family, query_tokens=10, passage_tokens=20)
    with torch.no_grad():
        for p in encoder.parameters():
            p.mul_(1.05)
    encoder.save(tmp_path)
    described = json.loads((tmp_path / "encoder.json").read_text())
    pooling = "mean" if family == "bert" else "last"
    files = described.pop("sha256")
    assert described == {
        "pooling": pooling,
        "query_tokens": 10,
        "passage_tokens": 20,
        "templates": asdict(PAPER),
        "head": {"dense": [], "dimensions": None, "normalized": True},
        "prefixes": [],
    }
    assert set(files) == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert files == {name: sha256((tmp_path / name).read_bytes()).hexdigest() for name in files}
    # What the folder says of itself goes before the arguments.
    other = "last" if pooling == "mean" else "mean"
    again = load_encoder(str(tmp_path), pooling=other, query_tokens=3, passage_tokens=3).eval()
    assert (again.pooling, again.query_tokens, again.passage_tokens) == (pooling, 10, 20)
    for one, two in (
        (encoder.embed_passages(texts), again.embed_passages(texts)),
        (encoder.embed_queries(texts, "Find it"), again.embed_queries(texts, "Find it")),
    ):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)
    assert all(p.requires_grad for p in again.parameters())


def test_adapter_saved_and_loaded_again(
    load: Load, family: str, texts: list[str], tmp_path: Path, folders: dict[str, Path]
) -> None:
    encoder = load(family, lora=Lora(r=4, alpha=16, dropout=0.1))
    plain = load(family).embed_passages(texts)
    trained = [p for p in encoder.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained:
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(4)) / 10)
    expected = encoder.embed_passages(texts)
    assert np.abs(expected - plain).max() > 0.01
    encoder.save(tmp_path)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert not (tmp_path / "model.safetensors").exists()
    assert size < (folders[family] / "model.safetensors").stat().st_size
    again = load(family, tmp_path)
    np.testing.assert_allclose(again.embed_passages(texts), expected, rtol=0, atol=1e-6)
    counts = [p.numel() for p in again.parameters() if p.requires_grad]
    assert sum(counts) == sum(p.numel() for p in trained)
    with pytest.raises(ConfigError, match=r"is an adapter already.*model\.lora=null"):
        load(family, tmp_path, lora=Lora())


def test_no_pooler_is_left_to_train(load: Load, folders: dict[str, Path]) -> None:
    assert any("pooler" in n for n, _ in AutoModel.from_pretrained(folders["bert"]).named_modules())
    encoder = load("bert").train()
    encoder(encoder.tokenizer(["a dog", "fox"], 8))[:, 0].sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def copied(source: Path, folder: Path, without: str = "") -> Path:
    folder.mkdir()
    for file in source.iterdir():
        if file.name != without:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_missing_weights_are_named(load: Load, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["qwen2"], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 3
    config["layer_types"] = ["full_attention"] * 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError) as error:
        load("qwen2", folder)
    assert str(error.value) == (
        f"model.path={folder}: 12 weights are missing from it, "
        "first layers.2.input_layernorm.weight"
    )


def test_a_folder_that_is_not_there(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path=.*/nowhere: cannot be loaded \(.+\)"):
        load("qwen2", tmp_path / "nowhere")


def test_a_folder_that_is_no_model(load: Load, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError) as error:
        load("qwen2", tmp_path)
    assert str(error.value) == (
        f"model.path={tmp_path}: not a model folder, it has no config.json or adapter_config.json"
    )


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_folder_without_one_of_its_files(
    load: Load, folders: dict[str, Path], tmp_path: Path, file: str
) -> None:
    with pytest.raises(ConfigError, match=file):
        load("qwen2", copied(folders["qwen2"], tmp_path / "copy", without=file))


def test_flash_attention_needs_its_package(monkeypatch: pytest.MonkeyPatch, load: Load) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    message = r"model\.attention=flash_attention_2 needs .*flash-attn.*; use model\.attention=auto"
    with pytest.raises(ConfigError, match=message):
        load("qwen2", attention="flash_attention_2")


def test_flash_attention_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flash_attn.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="flash_attention_2 needs a CUDA GPU"):
        select_attention("flash_attention_2")


def test_attention_without_flash(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [select_attention(name) for name in ("auto", "sdpa", "eager")] == [
        "sdpa",
        "sdpa",
        "eager",
    ]
    assert load("qwen2").backbone.config._attn_implementation == "sdpa"
    assert load("qwen2", attention="eager").backbone.config._attn_implementation == "eager"
