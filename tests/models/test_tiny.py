import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tdro_lightning.files import fingerprint
from tdro_lightning.models.tiny import build_tiny_model

SIZES = {"vocabulary": 300, "width": 16, "layers": 2, "heads": 2}


def test_parameters_and_layout(tmp_path: Path, sentences: list[str]) -> None:
    count = build_tiny_model(sentences, tmp_path, **SIZES, seed=1)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["vocab_size"]) == ("qwen2", 300)
    # A layer: q, k, v with biases, o; gate, up and down; two norms. Besides: embedding, last norm.
    layer = 3 * (16 * 16 + 16) + 16 * 16 + 3 * 16 * 32 + 2 * 16
    assert count == 300 * 16 + 2 * layer + 16
    weights = load_file(tmp_path / "model.safetensors")
    assert sum(weight.numel() for weight in weights.values()) == count


def test_same_seed_same_bytes_and_the_generator_is_left_alone(
    tmp_path: Path, sentences: list[str]
) -> None:
    before = torch.get_rng_state()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_tiny_model(sentences, tmp_path / name, **SIZES, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "c")


def test_tokenizer_reads_any_text_back(tmp_path: Path, sentences: list[str]) -> None:
    build_tiny_model(sentences, tmp_path, **SIZES, seed=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.eos_token == "<|endoftext|>"
    for text in (sentences[0], "Übergröße 東京 \U0001f600\n\ttab", ""):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.eos_token_id not in ids
    assert len(tokenizer("the river").input_ids) < len("the river")
