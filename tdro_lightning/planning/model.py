"""What a training stage would need of each GPU's memory; nothing is loaded or downloaded."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from tdro_lightning.assembly.modules import reference_path
from tdro_lightning.config.schema import Config, ModelConfig, TDROConfig
from tdro_lightning.errors import ConfigError
from tdro_lightning.files import GIGA
from tdro_lightning.models.adapter import Lora, attach_lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.language_model import KINDS, language_model_kind, sparse_head
from tdro_lightning.models.model_files import own_config, refuse_model_code
from tdro_lightning.models.shapes import architecture_config, from_config, transformer_layers
from tdro_lightning.models.sparse_head import SparseHead, SparseShape
from tdro_lightning.models.tiny import tiny_config
from tdro_lightning.models.tokenizer import TextTokenizer
from tdro_lightning.planning.memory import (
    CARDS,
    USABLE,
    Memory,
    Model,
    Output,
    cards_that_hold,
    estimate,
)
from tdro_lightning.report.tables import Column, Table, cells

DEVICES = 8  # where the configuration names fewer than two
SIZES = ("hidden_size", "intermediate_size", "num_attention_heads")


@dataclass(frozen=True)
class MemoryCase:
    """A way to run the stage, and what it would take of each device."""

    strategy: str
    devices: int
    checkpointing: bool
    tokens: int
    memory: Memory


def with_lora(backbone: PreTrainedModel, model: ModelConfig) -> PreTrainedModel | PeftModel:
    """A base model with a fresh adapter, if one is configured."""
    if model.lora is None:
        return backbone
    return attach_lora(backbone, Lora(model.lora.r, model.lora.alpha, model.lora.dropout))


def backbone_of(model: PreTrainedModel, shape: SparseShape | None) -> PreTrainedModel:
    """What gives the states of a model: a language model without its head, where it has one."""
    inside: Any = model.base_model
    backbone: PreTrainedModel = model if shape is None else inside
    return backbone


def planned_encoder(
    config: Config,
    model: PreTrainedModel,
    tokenizer: TextTokenizer | None,
    shape: SparseShape | None,
) -> Encoder:
    """The configured encoder on a model with random weights; without a tokenizer it reads ids.

    Args:
        config: adapter, pooling, limits and chunks.
        model: a language model where its head becomes a sparse one.
        tokenizer: of the model.
        shape: of the sparse head; None makes dense vectors.

    Raises:
        ConfigError: the model has no head that can become a sparse one.
    """
    head = None if shape is None else sparse_head(model, shape)
    return Encoder(
        with_lora(backbone_of(model, shape), config.model),
        tokenizer,  # type: ignore[arg-type]
        config.model.pooling,
        config.data.query_tokens,
        config.data.passage_tokens,
        config.trainer.chunk_tokens,
        config.trainer.kept_tokens,
        head=head,
    )


def random_model(
    model: ModelConfig, device: str, shape: SparseShape | None = None
) -> PreTrainedModel:
    """The configured base model with random weights, or on `meta` with none.

    Args:
        model: as configured.
        device: where its parameters lie.
        shape: of the sparse head, for which it is a language model.

    Raises:
        ConfigError: there is no local model folder, no architecture and no size of a small model;
            or no language model of its family.
    """
    return _made(_shape_config(model), model, device, shape)


def resized_model(
    model: ModelConfig,
    sizes: Mapping[str, int | None],
    device: str,
    shape: SparseShape | None = None,
) -> PreTrainedModel:
    """The configured kind of model with random weights and other sizes, of those that it has.

    Raises:
        ConfigError: a kind of model whose number of layers has another name; as `random_model`.
    """
    config = random_model(model, "meta").config
    given = config.to_dict()
    if "num_hidden_layers" not in given:
        raise ConfigError(f"stage=plan cannot count the layers of a {config.model_type}")
    given.pop("layer_types", None)  # made anew for fewer layers
    given |= {key: size for key, size in sizes.items() if key in given}
    return _made(type(config).from_dict(given), model, device, shape)


def _shape_config(model: ModelConfig) -> PretrainedConfig:
    if (Path(model.path) / "config.json").is_file():
        refuse_model_code(model.path)
        return own_config(model.path, None)
    if model.architecture is not None:
        return architecture_config(model.architecture)
    if model.tiny is None:
        raise ConfigError(
            f"model.architecture is not set, and model.path={model.path} is no folder with a "
            "config.json; give the shape (as conf/model/qwen05b.yaml does) or a local folder"
        )
    return tiny_config(**asdict(model.tiny))


def _made(
    config: PretrainedConfig, model: ModelConfig, device: str, shape: SparseShape | None
) -> PreTrainedModel:
    kind = AutoModel
    if shape is not None:
        kind = KINDS[shape.language_model or language_model_kind(config, model.path)]
    return from_config(config, device, getattr(torch, model.dtype), kind=kind)


def encoder_shape(encoder: Encoder) -> Model:
    """What the memory of an encoder depends on; it raises as `model_shape` does."""
    head = encoder.head
    if not isinstance(head, SparseHead):
        return model_shape(encoder.backbone)
    output = Output(
        terms=head.terms,
        values=sum(p.numel() for p in head.parameters()),
        tied=head.tied,
        trained=head.trained,
        stored_bytes=head.parts[0].element_size(),
    )
    return replace(model_shape(encoder.backbone), output=output)


def model_shape(backbone: PreTrainedModel | PeftModel) -> Model:
    """What the memory of a model depends on, counted on its parameters.

    Raises:
        ConfigError: a kind of model whose sizes have other names.
    """
    config = backbone.config.get_text_config()
    layers = transformer_layers(backbone)
    if not layers or not all(hasattr(config, name) for name in SIZES):
        raise ConfigError(f"stage=plan cannot count the layers of a {config.model_type}")
    frozen = [p for p in backbone.parameters() if not p.requires_grad]
    trained = [p for p in backbone.parameters() if p.requires_grad]
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    return Model(
        layers=len(layers),
        hidden=config.hidden_size,
        inner=config.intermediate_size,
        queries=heads * width,
        keys=key_heads * width,
        heads=heads,
        layer_values=sum(p.numel() for p in layers[0].parameters()),
        frozen=sum(p.numel() for p in frozen),
        trained=sum(p.numel() for p in trained),
        frozen_bytes=frozen[0].element_size() if frozen else 0,
        trained_bytes=trained[0].element_size(),
    )


def memory_cases(config: Config, model: Model) -> Iterator[MemoryCase]:
    """Each strategy with and without activation checkpointing."""
    devices = config.trainer.devices or 1
    many = devices if devices > 1 else DEVICES
    shortest = min(config.data.query_tokens, config.data.passage_tokens)
    reference = Path(getattr(config.module, "reference", None) or "")
    # The same model configuration makes a reference that is another adapter, too.
    adapter = bool(model.frozen) and not (reference / "config.json").is_file()
    learning = model.output is not None and model.output.trained_size > 0
    for strategy, devices in (("single", 1), ("ddp", many), ("fsdp", many)):
        tokens, vectors, others = _held(config, devices)
        sharded = strategy == "fsdp"
        if sharded and learning:
            continue  # a run refuses it
        for checkpointing in (False, True):
            memory = estimate(
                model,
                tokens=tokens,
                vectors=vectors,
                mixed=config.trainer.precision == "bf16-mixed",
                checkpointing=checkpointing,
                devices=devices,
                parameter_shards=devices if sharded else 1,
                reference=reference_path(config) is not None,
                shared=not sharded and adapter and not (model.output and model.output.trained),
                domains=0 if sharded else _gradients_apart(config, model, devices),
                others=others,
                texts=min(vectors, math.ceil(tokens / shortest)),
                chunks=math.ceil(tokens / config.trainer.chunk_tokens),
            )
            yield MemoryCase(strategy, devices, checkpointing, tokens, memory)


def _held(config: Config, devices: int) -> tuple[int, int, int]:
    """What one device holds at once at most: padded tokens with activations, and embeddings.

    The embeddings are those of its own texts, and gathered ones.
    """
    data, passages = config.data, 1 + config.data.negatives
    own = math.ceil(data.batch_size / devices) * (1 + passages)
    # Fine-tuning compares every query with the passages of all devices.
    everyone = 0 if isinstance(config.module, TDROConfig) or devices == 1 else data.batch_size
    return min(_batch_tokens(config, devices), kept_tokens(config)), own, everyone * passages


def _batch_tokens(config: Config, devices: int) -> int:
    """Tokens of a device's share of a batch whose texts are all as long as allowed."""
    data = config.data
    texts = data.query_tokens + (1 + data.negatives) * data.passage_tokens
    return math.ceil(data.batch_size / devices) * texts


def kept_tokens(config: Config) -> int:
    """Padded tokens of a batch that keep their activations; a chunk at least."""
    return max(config.trainer.chunk_tokens, config.trainer.kept_tokens)


def _gradients_apart(config: Config, model: Model, devices: int) -> int:
    """Domains that keep a gradient of their own, where a batch is run in one pass."""
    fits = _batch_tokens(config, devices) <= kept_tokens(config)
    if fits or not model.frozen or not may_run_in_one_pass(config):
        return 0
    return len(config.domains.only or config.domains.catalogue)


def may_run_in_one_pass(config: Config) -> bool:
    """Whether no row's gradient depends on other domains' rows, but for their weights."""
    return isinstance(config.module, TDROConfig) and config.module.sparsity is None


def case_values(case: MemoryCase) -> dict[str, object]:
    """A case as plain values."""
    return {
        "strategy": case.strategy,
        "devices": case.devices,
        "activation_checkpointing": case.checkpointing,
        "tokens": case.tokens,
        "bytes": {**asdict(case.memory), "total": case.memory.total},
        "cards": cards_that_hold(case.memory.total),
    }


def headline(config: Config, model: Model) -> str:
    """The model and the batch."""
    own = 0 if model.output is None else model.output.values
    learning = own if model.output is not None and model.output.trained else 0
    both, trained = model.frozen + model.trained + own, model.trained + learning
    how = "LoRA" if model.frozen else "every weight"
    if own:
        how += " and the head" if learning else "; the head is frozen"
    return (
        f"{config.model.path}, {config.module.kind}:\n{both / 1e6:,.1f} M parameters, "
        f"{trained / 1e6:,.1f} M of them trained ({how});\n"
        f"batch {config.data.batch_size}, {config.trainer.precision}\n"
    )


def memory_table(found: list[MemoryCase]) -> Table:
    """A column a case."""
    parts = ("parameters", "gradients", "optimiser", "reference", "activations", "total")
    columns = (Column("", numeric=False), *(Column(case.strategy) for case in found))
    cards = [cards_that_hold(case.memory.total) for case in found]
    rows = (
        ("devices", *(str(case.devices) for case in found)),
        ("checkpointing", *("yes" if case.checkpointing else "no" for case in found)),
        *(
            (part, *(f"{getattr(case.memory, part) / GIGA:.1f}" for case in found))
            for part in parts
        ),
        ("smallest card", *(str(min(fitting)) if fitting else "none" for fitting in cards)),
    )
    return Table("Memory", "", columns, tuple(cells(row) for row in rows))


def caption(config: Config, model: Model) -> str:
    """What the table's numbers are, and are not."""
    held, sparse = kept_tokens(config), ""
    if model.output is not None:
        sparse = (
            f"\nSparse vectors are counted with all {model.output.terms:,} terms active, as they "
            "may be\nin the first steps."
        )
    return (
        "\nEstimated, not measured: GB (10^9 bytes) of each device at the worst moment of\n"
        f"a step. Activations are of {held} padded tokens (trainer.chunk_tokens,\n"
        "trainer.kept_tokens) or fewer. The smallest card is the first of\n"
        f"{', '.join(map(str, CARDS))} GB of which the total takes at most {USABLE:.0%}.{sparse}"
    )
