"""An encoder of sparse vectors as a folder that sentence-transformers' `SparseEncoder` reads.

It has no factor for logits, so one that the encoder has is put into the last norm before the output
layer: a norm's gain scales the states, and so the logits.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from tdro_lightning.errors import ConfigError
from tdro_lightning.export.folder import FORMAT, prompt_prefixes, write_tokenizer
from tdro_lightning.files import write_json
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.language_model import KINDS, language_model_kind, sparse_head
from tdro_lightning.models.sparse_head import SparseHead

MODULES = {  # of sentence-transformers, by the kind of language model
    "masked": "sentence_transformers.sparse_encoder.models.MLMTransformer",
    "causal": "sentence_transformers.base.modules.transformer.Transformer",
}
POOLING = "sentence_transformers.sparse_encoder.models.SpladePooling"
READ_LOGITS = {  # of all tokens of a causal language model, under the name that the pooling reads
    "transformer_task": "text-generation",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "token_embeddings",
    "processing_kwargs": {"text": {"logits_to_keep": 0}},
}


def write_language_model(
    encoder: Encoder, source: str, folder: Path, prompts: Mapping[str, str | None]
) -> None:
    """Write the whole language model, an adapter merged into it.

    Args:
        encoder: an encoder of sparse vectors in float32, in which the adapter is merged too.
        source: folder or hub name of its language model.
        folder: it is made.
        prompts: as in `folder.write_merged`.

    Raises:
        ConfigError: it pools other tokens than sentence-transformers, or has no norm to scale.
    """
    head = encoder.head
    assert isinstance(head, SparseHead)
    if head.pooled != "all":
        raise ConfigError(
            f"model.sparse.pooled={head.pooled}: cannot be exported, since sentence-transformers "
            "pools all tokens of a text"
        )
    if isinstance(encoder.backbone, PeftModel):
        encoder.backbone = encoder.backbone.merge_and_unload(safe_merge=True)
    kind = head.shape.language_model or language_model_kind(encoder.backbone.config, source)
    model = KINDS[kind].from_pretrained(
        source,
        config=copy.deepcopy(encoder.backbone.config),
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
    )
    model.base_model.load_state_dict(encoder.backbone.state_dict())
    written = sparse_head(model, head.shape)
    written.load_state_dict(head.state_dict())
    _scale_logits(model, written)
    model.save_pretrained(str(folder))
    head.shape = replace(head.shape, scale="one")
    _write_settings(encoder, kind, folder, prompts)


@torch.no_grad()
def _scale_logits(model: Any, head: SparseHead) -> None:
    """Put the head's factor into the last norm before the output layer, and into its bias."""
    if head.scale == 1:
        return
    within = head.transform if list(head.transform.parameters()) else model.base_model
    norms = [m for m in within.modules() if "norm" in type(m).__name__.lower()]
    if not norms or not isinstance(getattr(norms[-1], "weight", None), nn.Parameter):
        raise ConfigError(
            f"model.sparse.scale={head.shape.scale}: cannot be exported of a "
            f"{model.config.model_type}, which has no norm before its output layer"
        )
    for name in ("weight", "bias"):
        value = getattr(norms[-1], name, None)
        if value is not None:
            value.mul_(head.scale)
    bias = head.parts[1]
    if bias is not None:
        bias.mul_(head.scale)


def _write_settings(
    encoder: Encoder, kind: str, folder: Path, prompts: Mapping[str, str | None]
) -> None:
    """Write everything but the weights."""
    write_tokenizer(encoder.tokenizer.tokenizer, folder, encoder.passage_tokens)
    limit = {"max_seq_length": encoder.passage_tokens, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", READ_LOGITS if kind == "causal" else limit)
    write_json(
        folder / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": MODULES[kind]},
            {"idx": 1, "name": "1", "path": "1_SpladePooling", "type": POOLING},
        ],
    )
    write_json(
        folder / "1_SpladePooling" / "config.json",
        {
            "pooling_strategy": "max",
            "activation_function": encoder.head.saturation,
            "word_embedding_dimension": encoder.dimensions,
        },
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SparseEncoder",
            "__version__": {"sentence_transformers": FORMAT},
            "prompts": prompt_prefixes(encoder.templates, prompts),
            "default_prompt_name": None,
            "similarity_fn_name": "dot",
        },
    )
    encoder.describe(folder)
