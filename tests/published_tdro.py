"""Folders in the layout of the published tDRO models: adapters beside tokenizers, without configs.

The files are written as the libraries of 2024 wrote them, with tiny random weights. The vectors
are computed a second time with transformers and PEFT alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModel

from tests.published import TEXTS

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WIDTH = 32
PAD = "[PAD]"


@dataclass(frozen=True)
class Base:
    """A base model of the paper.

    Args:
        kind: `model_type` of its config.
        tokenizer: class that its tokenizer_config.json names.
        start, end: special tokens around a text; no start where it is empty.
        others: further special tokens.
        pads: whether training added a token for padding, as it did where the base has none.
    """

    kind: str
    tokenizer: str
    start: str
    end: str
    others: tuple[str, ...] = ()
    pads: bool = True


BASES = {
    "Qwen1.5-0.5B": Base(
        "qwen2", "Qwen2Tokenizer", "", "<|endoftext|>", ("<|im_start|>", "<|im_end|>"), pads=False
    ),
    "Mistral-7B-v0.1": Base("mistral", "LlamaTokenizer", "<s>", "</s>", ("<unk>",)),
    "Llama-3-8B": Base("llama", "PreTrainedTokenizerFast", "<|begin_of_text|>", "<|end_of_text|>"),
}


def write_base(base: Base, folder: Path, seed: int = 0) -> Path:
    """Write a base model, whose tokenizer does not end texts."""
    made = _trained_tokenizer(base)
    _write_tokenizer(base, made, folder, ends=False, pads=False)
    config = CONFIG_MAPPING[base.kind](
        hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=made.get_vocab_size(), max_position_embeddings=1024,
        bos_token_id=None, eos_token_id=made.token_to_id(base.end), pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # so that texts differ
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def write_adapter(
    base: Base,
    model: Path,
    folder: Path,
    *,
    ends: bool = True,
    embeddings: bool = False,
    seed: int = 1,
    named: str | None = None,
) -> Path:
    """Write an adapter of a base model as one is published.

    Args:
        base: kind of the base.
        model: folder of the base.
        folder: to write.
        ends: whether the tokenizer's own files end texts, as those of a changed post-processor do.
        embeddings: whether the file holds the embeddings too, with a row for the padding token.
        seed: of the weights.
        named: what the adapter calls its base; None for its folder.
    """
    made = Tokenizer.from_file(str(model / "tokenizer.json"))
    _write_tokenizer(base, made, folder, ends=ends, pads=base.pads)
    backbone = AutoModel.from_pretrained(model)
    torch.manual_seed(seed)
    if embeddings:
        backbone.resize_token_embeddings(backbone.config.vocab_size + 1)
        backbone.get_input_embeddings().weight.data.mul_(1.1)
    adapted = get_peft_model(
        backbone,
        LoraConfig(
            r=8, lora_alpha=32, lora_dropout=0.1, target_modules=PROJECTIONS,
            task_type=TaskType.FEATURE_EXTRACTION,
        ),
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    adapted.save_pretrained(str(folder), save_embedding_layers=embeddings)
    weights = load_file(folder / "adapter_model.safetensors")
    half = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}  # 2 bytes each
    save_file(half, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(_settings(named or str(model))))
    return folder


def vectors(
    base: Base, model: Path, folder: Path, texts: Sequence[str], limit: int, *, batched: bool
) -> NDArray[np.float32]:
    """Unit vectors of texts with the paper's reading: last token, causal, padded on the right."""
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    starts = [raw.token_to_id(base.start)] if base.start else []
    rows = [
        torch.tensor(
            [
                *starts,
                *raw.encode(text, add_special_tokens=False).ids[: limit - len(starts) - 1],
                raw.token_to_id(base.end),
            ]
        )
        for text in texts
    ]
    backbone = AutoModel.from_pretrained(model)
    stored = load_file(folder / "adapter_model.safetensors").get(
        "base_model.model.embed_tokens.weight"
    )
    if stored is not None:
        backbone.resize_token_embeddings(len(stored))
        backbone.get_input_embeddings().weight.data.copy_(stored)
    adapted: Any = PeftModel.from_pretrained(backbone, str(folder)).eval()
    states = []
    with torch.no_grad():
        if batched:
            ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            lengths = torch.tensor([len(row) for row in rows])
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            hidden = adapted(input_ids=ids, attention_mask=mask).last_hidden_state
            states = [*hidden[torch.arange(len(rows)), lengths - 1]]
        else:
            states = [adapted(input_ids=row[None]).last_hidden_state[0, -1] for row in rows]
    found: NDArray[np.float32] = torch.nn.functional.normalize(torch.stack(states), dim=-1).numpy()
    return found


def _trained_tokenizer(base: Base) -> Tokenizer:
    special = [*base.others, *filter(None, [base.start]), base.end]
    if base.tokenizer == "LlamaTokenizer":
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)  # type: ignore[assignment]
        made.decoder = decoders.Metaspace()  # type: ignore[assignment]
        alphabet = []
        special += [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
        made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, show_progress=False, initial_alphabet=alphabet
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def _write_tokenizer(base: Base, made: Tokenizer, folder: Path, *, ends: bool, pads: bool) -> None:
    """The files of version 4 of transformers, and a post-processor that ends texts or does not."""
    folder.mkdir(parents=True)
    if pads:
        made.add_special_tokens([AddedToken(PAD, special=True, normalized=False)])
    around = [*filter(None, [base.start]), "$A", *([base.end] if ends else [])]
    known = [(t, made.token_to_id(t)) for t in (base.start, base.end) if t]
    made.post_processor = processors.TemplateProcessing(single=around, special_tokens=known)  # type: ignore[assignment]
    made.save(str(folder / "tokenizer.json"))
    pad = PAD if pads else None if base.start else base.end
    named = {
        "bos_token": base.start or None,
        "eos_token": base.end,
        "pad_token": pad,
        "unk_token": "<unk>" if "<unk>" in base.others else None,
    }
    special = [*base.others, *filter(None, [base.start]), base.end, *([PAD] if pads else [])]
    ids = {made.token_to_id(token): token for token in special}
    settings = {
        **named,
        "tokenizer_class": base.tokenizer,
        "model_max_length": 32768,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(number): {
                "content": token, "lstrip": False, "normalized": False, "rstrip": False,
                "single_word": False, "special": True,
            }
            for number, token in ids.items()
        },
    }  # fmt: skip
    if base.tokenizer == "LlamaTokenizer":
        settings |= {"add_bos_token": True, "add_eos_token": ends, "legacy": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    shown = {name: token for name, token in named.items() if token}
    (folder / "special_tokens_map.json").write_text(json.dumps(shown))
    content = json.loads((folder / "tokenizer.json").read_text())
    if base.tokenizer == "Qwen2Tokenizer":
        (folder / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
        merges = "\n".join(" ".join(pair) for pair in content["model"]["merges"])
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
        (folder / "added_tokens.json").write_text(json.dumps({t: n for n, t in ids.items()}))


def _settings(base: str) -> dict[str, Any]:
    """An adapter_config.json as PEFT wrote it in autumn 2024."""
    return {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": base, "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
        "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
        "loftq_config": {}, "lora_alpha": 32, "lora_dropout": 0.1, "megatron_config": None,
        "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "r": 8,
        "rank_pattern": {}, "revision": None, "target_modules": PROJECTIONS,
        "task_type": "FEATURE_EXTRACTION", "use_dora": False, "use_rslora": False,
    }  # fmt: skip
