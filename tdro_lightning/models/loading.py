"""Encoders from hub names, model folders, adapter folders, and folders of `Encoder.save`."""

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from tdro_lightning.errors import ConfigError, InputError
from tdro_lightning.files import read_json
from tdro_lightning.models.adapter import (
    Lora,
    add_adapter,
    attach_lora,
    embedding_rows,
    has_own_embeddings,
    load_adapter,
)
from tdro_lightning.models.declared import describe_declared
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.head import WEIGHTS, Head
from tdro_lightning.models.language_model import (
    KINDS,
    language_model_kind,
    sparse_head,
    take_head_weights,
)
from tdro_lightning.models.model_files import (
    ADAPTER,
    DESCRIPTION,
    attend_in_both_directions,
    base_model,
    own_config,
    refuse_model_code,
    require_positions,
)
from tdro_lightning.models.reading import DAMAGED, Reading, read_description, read_folder
from tdro_lightning.models.shapes import is_about_attention
from tdro_lightning.models.sparse_head import SparseHead, SparseShape
from tdro_lightning.models.tokenizer import TextTokenizer
from tdro_lightning.models.towers import freeze_other_towers

logger = logging.getLogger(__name__)

Attention = Literal["auto", "flash_attention_2", "sdpa", "eager"]
CONFIGS = ("config.json", ADAPTER)  # one of them makes a folder a model's


def load_encoder(
    path: str,
    *,
    pooling: str,
    query_tokens: int,
    passage_tokens: int,
    dtype: str = "float32",
    attention: Attention = "auto",
    lora: Lora | None = None,
    chunk_tokens: int = 16384,
    kept_tokens: int = 0,
    query_template: str | None = None,
    passage_template: str | None = None,
    bidirectional: bool | None = None,
    dimensions: Sequence[int] | None = None,
    sparse: SparseShape | None = None,
    normalized: bool = True,
) -> Encoder:
    """Load an encoder from a hub name, a model folder, or a folder written by `Encoder.save`.

    What a folder says of pooling, dense layers, templates and token limits goes before the
    arguments, since its weights were trained with it: an `encoder.json` of ours, else the
    `modules.json` of sentence-transformers, whose limits are upper ones.

    Args:
        path: hub name or folder; an adapter folder names its base model itself.
        pooling: of `POOLINGS`.
        query_tokens: longest query in tokens.
        passage_tokens: longest passage in tokens.
        dtype: dtype of the weights, `float32` or `bfloat16`.
        attention: attention kernels; `auto` takes flash attention where it can run.
        lora: sizes of a fresh adapter to train; None trains, or uses, the model as it is. The
            adapter of an adapted language model is trained on, whatever its sizes.
        chunk_tokens: padded tokens in one forward pass.
        kept_tokens: padded tokens whose activations a training step keeps.
        query_template, passage_template: go before what the folder says; None leaves it.
        bidirectional: whether a decoder's tokens see those behind them; None leaves what the
            folder or its config says.
        dimensions: numbers of first values of a vector that are vectors of their own; None takes
            those that the encoder was trained with.
        sparse: the sparse head that the language model's becomes, where the folder says nothing;
            None makes dense vectors.
        normalized: whether dense vectors are scaled to unit length, where the folder says nothing.

    Raises:
        ConfigError: no such model, one that brings code, weights missing from it, a tokenizer
            without EOS or of another model, or fewer positions than tokens are allowed.
        DataError: an encoder's files are not those that it was saved with.
    """
    if Path(path).is_dir() and not any((Path(path) / name).is_file() for name in CONFIGS):
        raise ConfigError(
            f"model.path={path}: not a model folder, it has no {' or '.join(CONFIGS)}"
        )
    logger.info("loading %s", path)
    try:
        refuse_model_code(path)
        head_asked = Head(normalized=normalized)
        asked = Reading(pooling, query_tokens, passage_tokens, head=head_asked, sparse=sparse)
        reading = read_folder(path, asked).with_templates(query_template, passage_template)
        tokenizer = TextTokenizer.load(path, reading.pooling, reading.append_eos)
        limits = (reading.query_tokens, reading.passage_tokens)
        bidirectional = reading.bidirectional if bidirectional is None else bidirectional
        backbone, head = _load_backbone(
            path, getattr(torch, dtype), attention, limits, bidirectional, reading.sparse
        )
        _require_fitting_head(reading.head, backbone, path)
        _require_declared_terms(reading, head, path)
        embeddings: Any = backbone.get_input_embeddings()
        tokenizer.require_rows(len(embeddings.weight))
    except InputError:
        raise
    except DAMAGED as error:
        first_line = f"{str(error).strip() or type(error).__name__}".splitlines()[0]
        raise ConfigError(f"model.path={path}: cannot be loaded ({first_line})") from None
    if lora is not None:
        if not (reading.adapted and isinstance(backbone, PeftModel)):
            backbone = _fresh_lora(backbone, lora, path)
        reading.head.requires_grad_(False)  # an adapter's folder holds what the adapter trains
    encoder = Encoder(
        backbone,
        tokenizer,
        reading.pooling,
        *limits,
        chunk_tokens,
        kept_tokens,
        templates=reading.templates,
        head=reading.head if head is None else head,
    )
    if dimensions is not None:
        encoder.head.prefixes = _fitting_prefixes(dimensions, encoder, path)
    if bidirectional is not None and encoder.causal == bidirectional:
        raise ConfigError(
            f"model.bidirectional={str(bidirectional).lower()}: {backbone.config.model_type} "
            "attends in one way only; take the key out"
        )
    if reading.declared is not None:
        logger.info("%s: %s", path, describe_declared(reading.declared, encoder.dimensions))
    return encoder


def load_on_shared_base(encoder: Encoder, path: str) -> Encoder | None:
    """Load an adapter folder onto the base model that another encoder holds already.

    Both then share the base; the new one is frozen, and in eval mode whatever mode the other is in.

    Args:
        encoder: the encoder with the base model, and an adapter on it.
        path: folder written by `Encoder.save`.

    Returns:
        the encoder, or None where the folder is no adapter, or of another base model, or one of the
        two has embeddings of its own.
    """
    adapter, described = Path(path) / ADAPTER, Path(path) / DESCRIPTION
    if not (adapter.is_file() and described.is_file() and isinstance(encoder.backbone, PeftModel)):
        return None
    bases = {base_model(path)}
    bases |= {config.base_model_name_or_path for config in encoder.backbone.peft_config.values()}
    if len(bases) > 1:
        return None
    refuse_model_code(path)
    base: Any = encoder.backbone.get_base_model()
    if has_own_embeddings(encoder.backbone) or embedding_rows(path, base) is not None:
        return None
    if read_json(described).get("adapted"):
        return None
    reading = read_description(described)
    if reading.bidirectional is not None and encoder.causal == reading.bidirectional:
        return None
    head: Head | SparseHead = reading.head
    if reading.sparse is not None:
        if reading.sparse.trained or not isinstance(encoder.head, SparseHead):
            return None
        own, theirs = encoder.head.shape, reading.sparse
        if (own.scale, own.pooled) != (theirs.scale, theirs.pooled):
            return None
        head = encoder.head
    return Encoder(
        encoder.backbone,
        TextTokenizer.load(path, reading.pooling, reading.append_eos),
        reading.pooling,
        reading.query_tokens,
        reading.passage_tokens,
        encoder.chunk_tokens,
        adapter=add_adapter(encoder.backbone, path),
        templates=reading.templates,
        head=head,
    )


def _require_fitting_head(head: Head, backbone: PreTrainedModel | PeftModel, path: str) -> None:
    """Refuse dense layers and dimensions that do not fit the backbone.

    Raises:
        ConfigError: names the sizes.
    """
    size = backbone.config.get_text_config().hidden_size
    for layer in head.layers:
        if layer.shape.inputs != size:
            raise ConfigError(
                f"model.path={path}: a dense layer takes {layer.shape.inputs} values, but gets "
                f"{size}"
            )
        size = layer.shape.outputs


def _require_declared_terms(reading: Reading, head: SparseHead | None, path: str) -> None:
    """Refuse a folder that declares sparse vectors of another size than its language model's."""
    wanted = None if reading.declared is None else reading.declared.terms
    if head is not None and wanted is not None and wanted != head.terms:
        raise ConfigError(
            f"model.path={path}: declares vectors of {wanted} terms, and its language model has "
            f"{head.terms}; restore the folder's files"
        )


def _fitting_prefixes(dimensions: Sequence[int], encoder: Encoder, path: str) -> tuple[int, ...]:
    if any(size > encoder.dimensions for size in dimensions):
        raise ConfigError(
            f"model.dimensions={[*dimensions]}: vectors of model.path={path} have "
            f"{encoder.dimensions} values"
        )
    return tuple(sorted(set(dimensions), reverse=True))


def select_attention(attention: Attention) -> str:
    """The attention implementation to load: the one demanded, or the fastest that can run here.

    Raises:
        ConfigError: flash attention is demanded without the package or without a GPU.
    """
    installed = importlib.util.find_spec("flash_attn") is not None
    usable = installed and torch.cuda.is_available()
    if attention == "flash_attention_2" and not usable:
        lacking = "a CUDA GPU" if installed else "the package flash-attn (pip extra `flash`)"
        raise ConfigError(
            f"model.attention=flash_attention_2 needs {lacking}; use model.attention=auto"
        )
    chosen = ("flash_attention_2" if usable else "sdpa") if attention == "auto" else attention
    logger.info("attention: %s", chosen)
    return chosen


def _fresh_lora(backbone: PreTrainedModel | PeftModel, lora: Lora, path: str) -> PeftModel:
    if isinstance(backbone, PeftModel):
        raise ConfigError(
            f"model.path={path} is an adapter already; continue to train it with "
            "model.lora=null, or name its base model"
        )
    return attach_lora(backbone, lora)


def _load_backbone(
    path: str,
    dtype: torch.dtype,
    attention: Attention,
    limits: tuple[int, int],
    bidirectional: bool | None,
    sparse: SparseShape | None,
) -> tuple[PreTrainedModel | PeftModel, SparseHead | None]:
    """The model for texts of so many tokens, and its sparse head where one is wanted.

    Where the path is an adapter's, the model has it.
    """
    base = base_model(path)
    if base is not None:
        refuse_model_code(base)
    config = own_config(base or path, select_attention(attention))
    require_positions(config, path, *limits)
    if bidirectional is not None:
        attend_in_both_directions(config, bidirectional)
    kind: Any = AutoModel
    if sparse is not None:
        name = sparse.language_model or language_model_kind(config, path)
        sparse, kind = replace(sparse, language_model=name), KINDS[name]

    model, missing = _read_model(kind, base or path, config, dtype, attention)
    backbone: Any = model if sparse is None else model.base_model
    beside = sparse is not None and (Path(path) / WEIGHTS).is_file()  # the head's weights
    if beside:
        missing = [key for key in missing if key.startswith(f"{model.base_model_prefix}.")]
    if missing:
        raise ConfigError(
            f"model.path={base or path}: {len(missing)} weights are missing from it, "
            f"first {missing[0]}"
        )
    backbone.config.use_cache = False
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # trained for another task, and no gradient would reach it
    freeze_other_towers(backbone)
    head = None
    if sparse is not None:
        head = sparse_head(model, sparse)
        take_head_weights(head, Path(path))
    return backbone if base is None else load_adapter(backbone, path), head


def _read_model(
    kind: Any, source: str, config: PreTrainedConfig, dtype: torch.dtype, attention: Attention
) -> tuple[PreTrainedModel, list[str]]:
    """A model with the weights of a folder or hub name, and the names of those that it lacks.

    Args:
        kind: one of transformers' auto classes.
        source: folder or hub name.
        config: its own, with the attention kernels; eager ones where the model has not these.
        dtype: of the weights.
        attention: as demanded; only `auto` may become eager.
    """

    def read(kernels: str) -> tuple[PreTrainedModel, dict[str, Any]]:
        found: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            attn_implementation=kernels,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        return found

    try:
        model, report = read(str(config._attn_implementation))
    except ValueError as error:
        if attention != "auto" or not is_about_attention(error):
            raise
        logger.info("%s has no attention %s; eager is used", source, config._attn_implementation)
        config._attn_implementation = "eager"
        model, report = read("eager")
    return model, sorted(k for k in report["missing_keys"] if not k.startswith("pooler."))
