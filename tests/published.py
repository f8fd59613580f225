"""Folders as they are published, with random weights: layouts, prompts and tokenizer endings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedTokenizerFast

from tdro_lightning.models.encoder import Encoder

WIDTH = 32
TEXTS = (
    "Paris is the capital of France, and its largest city.",
    "what is the capital of france",
    "Übung macht den Meister; ça va, señor?",
    "如何学习一门新的语言？",
    "def add(a, b): return a + b",
    "a",
    "task: search result | query: Instruct: Given a web search query, title: none | text: passage",
    "search_query: Represent this sentence for searching relevant passages: who wrote faust",
    "a longer text that is cut: " + "word and another word " * 60,
)
QUERY = "Represent this sentence for searching relevant passages: "


@dataclass(frozen=True)
class Family:
    """What a published folder is like.

    Args:
        kind: `model_type` of its config.
        words: kind of its tokenizer: `bytes`, `pieces` or `unigram`.
        ends: special tokens before and after a text.
        pooling: of sentence-transformers.
        config: further fields of its config.
        dense: sizes of its dense layers' outputs, without bias and activation.
        normalize: whether vectors are scaled to unit length by the folder.
        prompts: that it stores.
        settings: further entries of its tokenizer_config.json.
    """

    kind: str
    words: str
    ends: tuple[Sequence[str], Sequence[str]]
    pooling: str
    config: Mapping[str, Any] = field(default_factory=dict)
    dense: tuple[int, ...] = ()
    normalize: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


ROBERTA = (["<s>"], ["</s>"])
BERT = (["[CLS]"], ["[SEP]"])
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "Qwen3": Family("qwen3", "bytes", ([], []), "lasttoken", HEADS),
    "Qwen3-Embedding": Family(
        "qwen3", "bytes", ([], ["<|endoftext|>"]), "lasttoken", HEADS,
        prompts={
            "query": "Instruct: Given a web search query, retrieve relevant passages that answer "
            "the query\nQuery:",
            "document": "",
        },
    ),
    "EmbeddingGemma": Family(
        "gemma3_text", "bytes", (["<bos>"], ["<eos>"]), "mean",
        {**HEADS, "num_key_value_heads": 1, "use_bidirectional_attention": True,
         "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
        dense=(48, 24),
        prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
    ),
    "ModernBERT": Family(
        "modernbert", "bytes", BERT, "cls", {"num_attention_heads": 4}, normalize=False
    ),
    "EuroBERT": Family(
        "eurobert", "bytes", (["<s>"], ["</s>"]), "mean",
        {"num_attention_heads": 4, "num_key_value_heads": 4}, settings={"pad_token": "</s>"},
    ),
    "XLM-R": Family(
        "xlm-roberta", "unigram", ROBERTA, "cls", {"num_attention_heads": 4},
        prompts={"query": "query: "},
    ),
    "BERT": Family("bert", "pieces", BERT, "mean", {"num_attention_heads": 4}),
    "BGE": Family(
        "bert", "pieces", BERT, "cls", {"num_attention_heads": 4}, prompts={"query": QUERY}
    ),
    "MPNet": Family("mpnet", "pieces", ROBERTA, "mean", {"num_attention_heads": 4}),
    "Llama": Family("llama", "bytes", (["<s>"], []), "lasttoken", HEADS),
    "Mistral": Family(
        "mistral", "bytes", (["<s>"], ["</s>"]), "lasttoken", {**HEADS, "sliding_window": 8},
        prompts={
            "web_search_query": "Instruct: Given a web search query, retrieve relevant passages "
            "that answer the query\nQuery: ",
            "sts_query": "Instruct: Retrieve semantically similar text.\nQuery: ",
        },
    ),
    "SmolLM2": Family(
        "llama", "bytes", ([], []), "weightedmean", {**HEADS, "tie_word_embeddings": True}
    ),
    "Nomic": Family(
        "nomic_bert", "pieces", BERT, "mean", {"num_attention_heads": 4}, normalize=False,
        prompts={"query": "search_query: ", "document": "search_document: "},
    ),
}  # fmt: skip


def made_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """A tokenizer of the family's kind that ends texts as the family's does."""
    common = ["<pad>", "<unk>", "<mask>", "<|im_end|>"]
    special = list(dict.fromkeys([*common, *family.ends[0], *family.ends[1]]))
    made: Tokenizer
    if family.words == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
        made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        trainer: Any = trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
    elif family.words == "pieces":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)  # type: ignore[assignment]
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
        trainer = trainers.WordPieceTrainer(
            vocab_size=600, special_tokens=special, show_progress=False
        )
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
        trainer = trainers.UnigramTrainer(
            vocab_size=600, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    made.train_from_iterator(TEXTS, trainer)
    before, after = family.ends
    made.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single=[*before, "$A", *after],
        special_tokens=[(token, made.token_to_id(token)) for token in special],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", mask_token="<mask>",
        **{"pad_token": "<pad>", "eos_token": "<|im_end|>", "model_max_length": 96}
        | dict(family.settings),
    )  # fmt: skip


def write_published(family: Family, folder: Path, seed: int = 0) -> Path:
    """Write a folder of the family, as sentence-transformers saves it."""
    tokenizer = made_tokenizer(family)
    config = CONFIG_MAPPING[family.kind](
        hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, vocab_size=len(tokenizer),
        max_position_embeddings=128, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, **family.config,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # so that texts differ
            parameter.add_(0.1 * torch.randn_like(parameter))
    base = folder / "base"
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    kwargs = {"model_kwargs": {"attn_implementation": "eager"}} if family.kind == "mpnet" else {}
    modules: list[nn.Module] = [
        Transformer(str(base), **kwargs),
        Pooling(WIDTH, pooling_mode=family.pooling),  # type: ignore[arg-type]
    ]
    size = WIDTH
    for wide in family.dense:
        modules.append(Dense(size, wide, bias=False, activation_function=nn.Identity()))
        size = wide
    if family.normalize:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, prompts=dict(family.prompts), device="cpu").save(
        str(folder / "published")
    )
    return folder / "published"


def embed_padded(encoder: Encoder, texts: Sequence[str], limit: int) -> tuple[Tensor, Tensor]:
    """Vectors of passages of at most `limit` tokens, padded on the right, and on the left."""
    tokens = encoder.tokenizer([encoder.templates.format_passage(t) for t in texts], limit)
    ids, mask = tokens.padded(torch.arange(len(texts)))
    shifts = [mask.shape[1] - int(length) for length in tokens.lengths]
    left_ids, left_mask = (
        torch.stack([row.roll(shift) for row, shift in zip(rows, shifts, strict=True)])
        for rows in (ids, mask)
    )
    return encoder.embed(ids, mask), encoder.embed(left_ids, left_mask)
