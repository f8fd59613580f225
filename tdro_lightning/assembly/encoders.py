"""Encoders as the configuration wants them."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peft import PeftModel

from tdro_lightning.config.schema import Config
from tdro_lightning.console.output import tell
from tdro_lightning.errors import ConfigError
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder, load_on_shared_base
from tdro_lightning.models.model_files import require_positions
from tdro_lightning.models.reading import Reading, read_folder
from tdro_lightning.models.sparse_head import SparseShape
from tdro_lightning.training.strategies import checkpoint_activations

logger = logging.getLogger(__name__)


def configured_encoder(
    config: Config, path: str, *, trained: bool = False, data_limits: bool = False
) -> Encoder:
    """Load an encoder.

    Args:
        config: pooling, dtype, attention and token limits come from here.
        path: hub name or folder.
        trained: attach the configured adapter, for training.
        data_limits: texts are as long as `data` says, whatever a folder says.

    Raises:
        ConfigError: no such model, or one that cannot be pooled as asked.
    """
    wants_sparse = config.model.head == "sparse"
    encoder = _loaded(config, path, config.model.pooling, sparse=wants_sparse, trained=trained)
    if encoder.sparse != wants_sparse:
        kinds = ("sparse", "dense") if encoder.sparse else ("dense", "sparse")
        tell(f"  {path}: its folder has a {kinds[0]} head, which holds; not model.head={kinds[1]}")
    elif not config.model.normalized and getattr(encoder.head, "normalized", False):
        tell(f"  {path}: its folder has vectors of unit length; not model.normalized=false")
    if data_limits:
        limits = config.data.query_tokens, config.data.passage_tokens
        require_positions(encoder.backbone.config, path, *limits)
        encoder.query_tokens, encoder.passage_tokens = limits
    for key in ("model.pooling", "data.query_tokens", "data.passage_tokens"):
        section, _, name = key.partition(".")
        asked, holds = getattr(getattr(config, section), name), getattr(encoder, name)
        if asked != holds:
            tell(f"  {path}: its folder has {name} {holds}, which holds; not {key}={asked}")
    return encoder


def configured_language_model(config: Config) -> Encoder:
    """Load the model that is adapted: an encoder whose sparse head is the language model's own.

    Its tokenizer stays as it is, whatever pooling follows.

    Raises:
        ConfigError: no such model, one that is a dense encoder, or whose tokens see one side only.
    """
    path = config.model.path
    encoder = _loaded(config, path, "mean", sparse=True, trained=True)
    if not encoder.sparse:
        raise ConfigError(
            f"model.path={path}: is an encoder with a dense head; module=mntp adapts a language "
            "model, so name that"
        )
    if encoder.causal:
        raise ConfigError(
            "module=mntp adapts a model to tokens that see both sides, and those of "
            f"model.path={path} see one; set model.bidirectional=true"
        )
    return encoder


def _loaded(config: Config, path: str, pooling: str, *, sparse: bool, trained: bool) -> Encoder:
    """The encoder of a path; with an adapter where it is to be trained and one is configured."""
    lora = config.model.lora if trained else None
    encoder = load_encoder(
        path,
        pooling=pooling,
        query_tokens=config.data.query_tokens,
        passage_tokens=config.data.passage_tokens,
        dtype=config.model.dtype,
        attention=config.model.attention,  # type: ignore[arg-type]
        lora=Lora(lora.r, lora.alpha, lora.dropout) if lora else None,
        chunk_tokens=config.trainer.chunk_tokens,
        kept_tokens=config.trainer.kept_tokens,
        query_template=config.model.query_template,
        passage_template=config.model.passage_template,
        bidirectional=config.model.bidirectional,
        dimensions=config.model.dimensions,
        sparse=_shape(config) if sparse else None,
        normalized=config.model.normalized,
    )
    if trained and encoder.sparse and encoder.head.trained and lora and encoder.head.tied:
        raise ConfigError(
            f"model.sparse.trained=true: the head of model.path={path} is its embedding, which an "
            "adapter leaves as it is; use model.sparse.trained=false or model.lora=null"
        )
    if lora is not None and isinstance(encoder.backbone, PeftModel):
        own: Any = encoder.backbone.peft_config["default"]
        sizes = (own.r, own.lora_alpha, own.lora_dropout)
        if sizes != (lora.r, lora.alpha, lora.dropout):
            tell(
                "  {}: its adapter, of r {}, alpha {} and dropout {}, is trained on; not a fresh "
                "one of model.lora".format(path, *sizes)
            )
    if trained and config.strategy.activation_checkpointing:
        checkpoint_activations(encoder)
    return encoder


def configured_shape(config: Config) -> SparseShape | None:
    """The sparse head that is asked for, which a folder's own goes before; None for dense."""
    return _shape(config) if config.model.head == "sparse" else None


def _shape(config: Config) -> SparseShape:
    return SparseShape(**asdict(config.model.sparse))


def configured_reading(config: Config, folder: str | None = None) -> Reading:
    """How the model's texts are read, without loading it: as configured, else as a folder says.

    Args:
        config: of a run.
        folder: local one of the model; None takes `model.path`, where that is a folder.

    Raises:
        ConfigError: the folder declares what cannot be applied.
        DataError: one of its files is damaged.
    """
    model, data = config.model, config.data
    shape = configured_shape(config)
    reading = Reading(model.pooling, data.query_tokens, data.passage_tokens, sparse=shape)
    place = folder or model.path
    if Path(place).is_dir():
        reading = read_folder(place, reading)
    return reading.with_templates(model.query_template, model.passage_template)


def configured_reference(config: Config, path: str, proxy: Encoder) -> Encoder:
    """Load the reference; where it is an adapter on the proxy's base, that base is held once.

    Under FSDP each holds its own shards, since the base is gathered for one of them at a time.

    Raises:
        ConfigError: no such model, or its tokenizer, pooling, templates or token limits are not the
            proxy's.
    """
    shared = None if config.strategy.kind == "fsdp" else load_on_shared_base(proxy, path)
    if shared is not None:
        logger.info("%s: an adapter on the proxy's base model, which is held once", path)
    reference = shared or configured_encoder(config, path)
    # It reads the proxy's token ids.
    sides = [
        (
            e.tokenizer.tokenizer.get_vocab(),
            e.pooling,
            e.query_tokens,
            e.passage_tokens,
            (e.templates.query, e.templates.passage),
            e.head.describe(),
        )
        for e in (proxy, reference)
    ]
    limits = ("data.query_tokens", "data.passage_tokens")
    titles = ("vocabulary", "pooling", *limits, "template", "head")
    for title, ours, theirs in zip(titles, *sides, strict=True):
        if ours != theirs:
            shown = "" if title == "vocabulary" else f" ({ours} and {theirs})"
            raise ConfigError(
                f"module.reference: its {title} differs from the proxy's{shown}; "
                "train the reference from the same base model with the same data settings"
            )
    return reference
