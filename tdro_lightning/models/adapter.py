"""Low-rank adapters (LoRA) on all linear layers that read text."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tdro_lightning.errors import ConfigError
from tdro_lightning.models.model_files import ADAPTER_WEIGHTS, model_file
from tdro_lightning.models.towers import text_tower


@dataclass(frozen=True)
class Lora:
    """LoRA sizes; the paper's Table 6: r 8, alpha 32, dropout 0.1."""

    r: int = 8
    alpha: int = 32
    dropout: float = 0.1


def attach_lora(backbone: PreTrainedModel, lora: Lora) -> PeftModel:
    """The backbone frozen, with a fresh trainable adapter on every linear layer that reads text.

    Layers of a tower for images or sound get none: no text passes them.

    Raises:
        ConfigError: which layers read text is not known.
    """
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_text_layers(backbone),
        task_type=TaskType.FEATURE_EXTRACTION,
    )
    return get_peft_model(backbone, config)


def _text_layers(backbone: PreTrainedModel) -> str | list[str]:
    """Names of the linear layers that read text; PEFT's word for all where all do."""
    tower = text_tower(backbone)
    if tower is None:
        raise ConfigError(
            f"model.path={backbone.config.name_or_path}: which layers of "
            f"{backbone.config.model_type} read text is not known, so it can have no adapter; "
            "use model.lora=null, or a model of text alone"
        )
    prefix, module = tower
    if not prefix:
        return "all-linear"
    kinds = nn.Linear | Conv1D
    return [f"{prefix}.{name}" for name, m in module.named_modules() if isinstance(m, kinds)]


def load_adapter(backbone: PreTrainedModel, path: str) -> PeftModel:
    """The backbone with the adapter of a folder or hub name, which can be trained on.

    Where the adapter's file holds embeddings too, they take the place of the backbone's, also
    where they have rows for more tokens. They stay frozen.

    Raises:
        ConfigError: the adapter is of another base model.
    """
    rows = embedding_rows(path, backbone)
    embeddings: Any = backbone.get_input_embeddings()
    if rows is not None and rows != len(embeddings.weight):
        backbone.resize_token_embeddings(rows, mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that are missing, which is refused below
        try:
            model = PeftModel.from_pretrained(backbone, path, is_trainable=True)
        except RuntimeError as error:  # weights of other sizes
            raise ConfigError(
                f"model.path={path}: the adapter does not fit its base model "
                f"{backbone.config.name_or_path} ({str(error).strip()[:200]})"
            ) from None
    # An adapter that lists them in `modules_to_save` keeps them by itself.
    listed = isinstance(model.get_input_embeddings(), ModulesToSaveWrapper)
    model.own_embeddings = rows is not None and not listed  # type: ignore[assignment]
    _require_whole(model, path, "default")
    return model


def add_adapter(backbone: PeftModel, path: str) -> str:
    """Load a second adapter from a folder, frozen and not in use; returns its name.

    Raises:
        ConfigError: the adapter is of another base model.
    """
    name = f"adapter{len(backbone.peft_config)}"
    backbone.load_adapter(path, name, is_trainable=False)
    _require_whole(backbone, path, name)
    return name


def embedding_rows(path: str, backbone: PreTrainedModel) -> int | None:
    """Rows of the embeddings that an adapter's file holds; None where it holds the adapter alone.

    Args:
        path: folder or hub name of the adapter, whose weights are there.
        backbone: its base model.
    """
    embeddings = backbone.get_input_embeddings()
    names = (name for name, module in backbone.named_modules() if module is embeddings)
    key = f"base_model.model.{next(names, None)}.weight"
    with safe_open(_weights(path), framework="pt") as file:
        there = key in set(file.keys())
        return int(file.get_slice(key).get_shape()[0]) if there else None


def has_own_embeddings(backbone: PreTrainedModel | PeftModel) -> bool:
    """Whether the embeddings were read with an adapter, and not from its base model."""
    return bool(getattr(backbone, "own_embeddings", False))


def save_backbone(
    backbone: PreTrainedModel | PeftModel,
    folder: Path,
    values: dict[str, Any] | None = None,
) -> None:
    """Write a model, or an adapter with the embeddings that it was read with.

    Args:
        backbone: what is written.
        folder: it is made.
        values: whole tensors by name, where the backbone's own are sharded; None for its own.
    """
    if isinstance(backbone, PeftModel):
        own = has_own_embeddings(backbone)
        backbone.save_pretrained(str(folder), state_dict=values, save_embedding_layers=own)
    else:
        backbone.save_pretrained(str(folder), state_dict=values)


def _weights(path: str) -> Path:
    weights = model_file(path, ADAPTER_WEIGHTS)
    assert weights is not None, "`base_model` has seen that it is there"
    return weights


def _require_whole(model: PeftModel, path: str, name: str) -> None:
    """Refuse an adapter whose file has other weights than the model has places for."""
    with safe_open(_weights(path), framework="pt") as file:
        present = set(file.keys())
    wanted = set(
        get_peft_model_state_dict(
            model, adapter_name=name, save_embedding_layers=has_own_embeddings(model)
        )
    )
    if present != wanted:
        raise ConfigError(
            f"model.path={path}: the adapter does not fit its base model: {len(wanted - present)} "
            f"weights are missing from it, {len(present - wanted)} have no place; one is "
            f"{min(present ^ wanted)}"
        )


class AdapterInputs:
    """Casts of what enters the adapters: left out under autocast, which casts by itself.

    PEFT casts the inputs of a float32 adapter to float32. Autocast then casts them back to
    bfloat16, and both copies of each layer's inputs are most of the memory traffic of a step.

    Args:
        backbone: a transformer, with or without adapters.
    """

    def __init__(self, backbone: PreTrainedModel | PeftModel) -> None:
        layers = (m for m in backbone.modules() if isinstance(m, BaseTunerLayer))
        self._layers: list[Any] = list(layers)

    def adjust(self, device: torch.device) -> None:
        """Cast in the forward passes that follow on a device, unless autocast is on."""
        cast = not torch.is_autocast_enabled(device.type)
        for layer in self._layers:
            layer.cast_input_dtype_enabled = cast


@contextmanager
def use_adapter(backbone: PreTrainedModel | PeftModel, adapter: str | None) -> Iterator[None]:
    """Use another adapter in a block, in eval mode, and restore the state; None changes nothing."""
    if adapter is None:
        yield
        return
    assert isinstance(backbone, PeftModel)
    before, training = backbone.active_adapter, backbone.training
    backbone.eval().set_adapter(adapter, inference_mode=True)
    try:
        yield
    finally:
        backbone.train(training).set_adapter(before)
