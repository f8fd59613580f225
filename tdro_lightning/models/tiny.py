"""A small Qwen2 from scratch, with a tokenizer of Qwen2's kind trained on the user's own texts."""

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import Qwen2Config, Qwen2Model, Qwen2Tokenizer

# Wider than Qwen2's 0.02: with the narrow one all texts begin nearly alike, and hundreds of steps
# pass before a loss moves.
EMBEDDING_STD = 0.2


def build_tiny_model(
    texts: Iterable[str],
    folder: Path,
    *,
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    seed: int,
) -> int:
    """Write an untrained model in the folder layout of Qwen1.5 and return its parameter count.

    Args:
        texts: what the byte-level BPE tokenizer learns its merges from.
        folder: written in place; afterwards an ordinary Hugging Face model folder.
        vocabulary: tokens, at least 257 (all bytes and EOS).
        width: hidden size.
        layers: transformer layers.
        heads: attention heads; they must divide the width.
        seed: seed of the initial weights.
    """
    tokenizer = Qwen2Tokenizer().train_new_from_iterator(texts, vocabulary, show_progress=False)
    tokenizer.save_pretrained(str(folder))
    config = tiny_config(len(tokenizer), width, layers, heads)
    config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2Model(config)
        torch.nn.init.normal_(model.embed_tokens.weight, std=EMBEDDING_STD)
    model.save_pretrained(str(folder))
    return model.num_parameters()


def tiny_config(vocabulary: int, width: int, layers: int, heads: int) -> Qwen2Config:
    """The model's shape."""
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
