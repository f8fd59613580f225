"""A small Qwen2 from scratch, with a byte-level BPE tokenizer trained on the user's own texts."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

EOS = "<|endoftext|>"


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
        texts: what the tokenizer learns its merges from.
        folder: written in place; afterwards an ordinary Hugging Face model folder.
        vocabulary: tokens, at least 257 (all bytes and EOS).
        width: hidden size.
        layers: transformer layers.
        heads: attention heads; they must divide the width.
        seed: seed of the initial weights.
    """
    tokenizer = _train_tokenizer(texts, vocabulary)
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=512,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2Model(config)
    model.save_pretrained(folder)
    return model.num_parameters()


def _train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=EOS)
