"""Encoders from hub names, model folders, adapter folders, and folders of `Encoder.save`."""

import importlib.util
import logging
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModel, PreTrainedModel

from tdro_lightning.errors import ConfigError, DataError, InputError
from tdro_lightning.files import read_json
from tdro_lightning.models.adapter import Lora, add_adapter, attach_lora, load_adapter
from tdro_lightning.models.encoder import DESCRIPTION, Encoder
from tdro_lightning.models.model_files import (
    ADAPTER,
    base_model,
    own_config,
    refuse_model_code,
    require_deciding_files,
    require_positions,
)
from tdro_lightning.models.pooling import POOLINGS
from tdro_lightning.models.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

Attention = Literal["auto", "flash_attention_2", "sdpa", "eager"]
CONFIGS = ("config.json", ADAPTER)  # one of them makes a folder a model's
DAMAGED = (  # what loading raises where files are missing, cut off, or of another shape
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ArithmeticError),
    *(SafetensorError, StrictDataclassError),
)


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
) -> Encoder:
    """Load an encoder from a hub name, a model folder, or a folder written by `Encoder.save`.

    A folder's own description (pooling, token limits) goes before the arguments, since its weights
    were trained with it.

    Args:
        path: hub name or folder; an adapter folder names its base model itself.
        pooling: of `POOLINGS`.
        query_tokens: longest query in tokens.
        passage_tokens: longest passage in tokens.
        dtype: dtype of the weights, `float32` or `bfloat16`.
        attention: attention kernels; `auto` takes flash attention where it can run.
        lora: sizes of a fresh adapter to train; None trains, or uses, the model as it is.
        chunk_tokens: padded tokens in one forward pass.
        kept_tokens: padded tokens whose activations a training step keeps.

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
    described = Path(path) / DESCRIPTION
    if described.is_file():
        pooling, query_tokens, passage_tokens = _description(described)
    try:
        refuse_model_code(path)
        tokenizer = TextTokenizer.load(path, pooling)
        backbone = _load_backbone(
            path, getattr(torch, dtype), select_attention(attention), (query_tokens, passage_tokens)
        )
        embeddings: Any = backbone.get_input_embeddings()
        tokenizer.require_rows(len(embeddings.weight))
    except InputError:
        raise
    except DAMAGED as error:
        first_line = f"{str(error).strip() or type(error).__name__}".splitlines()[0]
        raise ConfigError(f"model.path={path}: cannot be loaded ({first_line})") from None
    if lora is not None:
        backbone = _fresh_lora(backbone, lora, path)
    return Encoder(
        backbone, tokenizer, pooling, query_tokens, passage_tokens, chunk_tokens, kept_tokens
    )


def load_on_shared_base(encoder: Encoder, path: str) -> Encoder | None:
    """Load an adapter folder onto the base model that another encoder holds already.

    Both then share the base; the new one is frozen, and in eval mode whatever mode the other is in.

    Args:
        encoder: the encoder with the base model, and an adapter on it.
        path: folder written by `Encoder.save`.

    Returns:
        the encoder, or None where the folder is no adapter, or of another base model.
    """
    adapter, described = Path(path) / ADAPTER, Path(path) / DESCRIPTION
    if not (adapter.is_file() and described.is_file() and isinstance(encoder.backbone, PeftModel)):
        return None
    bases = {base_model(path)}
    bases |= {config.base_model_name_or_path for config in encoder.backbone.peft_config.values()}
    if len(bases) > 1:
        return None
    refuse_model_code(path)
    pooling, query_tokens, passage_tokens = _description(described)
    return Encoder(
        encoder.backbone,
        TextTokenizer.load(path, pooling),
        pooling,
        query_tokens,
        passage_tokens,
        encoder.chunk_tokens,
        adapter=add_adapter(encoder.backbone, path),
    )


def _description(path: Path) -> tuple[str, int, int]:
    described = read_json(path)
    try:
        pooling = described["pooling"]
        query_tokens, passage_tokens = described["query_tokens"], described["passage_tokens"]
    except (KeyError, TypeError):
        keys = "pooling, query_tokens and passage_tokens"
        raise DataError(f"{path}: must have the keys {keys}") from None
    limits = (query_tokens, passage_tokens)
    if pooling not in POOLINGS or not all(type(n) is int and n > 1 for n in limits):
        shown = f"pooling={pooling!r}, query_tokens={query_tokens!r}, {passage_tokens=!r}"
        raise DataError(
            f"{path}: {shown} cannot be; pooling is "
            f"{' or '.join(POOLINGS)}, the limits are numbers above 1"
        )
    if described.get("sha256"):  # an encoder of an earlier version has none
        require_deciding_files(path.parent, described["sha256"])
    return pooling, query_tokens, passage_tokens


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
    path: str, dtype: torch.dtype, attention: str, limits: tuple[int, int]
) -> PreTrainedModel | PeftModel:
    """The model, with its adapter where the path is one, for texts of so many tokens."""
    base = base_model(path)
    if base is not None:
        refuse_model_code(base)
    config = own_config(base or path, attention)
    require_positions(config, path, *limits)
    backbone, report = AutoModel.from_pretrained(
        base or path,
        config=config,
        dtype=dtype,
        attn_implementation=attention,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ConfigError(
            f"model.path={base or path}: {len(missing)} weights are missing from it, "
            f"first {missing[0]}"
        )
    backbone.config.use_cache = False
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # trained for another task, and no gradient would reach it
    return backbone if base is None else load_adapter(backbone, path)
