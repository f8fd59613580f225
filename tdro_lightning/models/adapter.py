"""Low-rank adapters (LoRA) on all linear layers of a backbone."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from transformers import PreTrainedModel

from tdro_lightning.errors import ConfigError
from tdro_lightning.models.model_files import ADAPTER_WEIGHTS, model_file


@dataclass(frozen=True)
class Lora:
    """LoRA sizes; the paper's Table 6: r 8, alpha 32, dropout 0.1."""

    r: int = 8
    alpha: int = 32
    dropout: float = 0.1


def attach_lora(backbone: PreTrainedModel, lora: Lora) -> PeftModel:
    """The backbone frozen, with a fresh trainable adapter on every linear layer."""
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type=TaskType.FEATURE_EXTRACTION,
    )
    return get_peft_model(backbone, config)


def load_adapter(backbone: PreTrainedModel, path: str) -> PeftModel:
    """The backbone with the adapter of a folder or hub name, which can be trained on.

    Raises:
        ConfigError: the adapter is of another base model.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that are missing, which is refused below
        try:
            model = PeftModel.from_pretrained(backbone, path, is_trainable=True)
        except RuntimeError as error:  # weights of other sizes
            raise ConfigError(
                f"model.path={path}: the adapter does not fit its base model "
                f"{backbone.config.name_or_path} ({str(error).strip()[:200]})"
            ) from None
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


def _require_whole(model: PeftModel, path: str, name: str) -> None:
    """Refuse an adapter whose file has other weights than the model has places for."""
    weights = model_file(path, ADAPTER_WEIGHTS)
    assert weights is not None, "`base_model` has seen that it is there"
    with safe_open(weights, framework="pt") as file:
        present = set(file.keys())
    wanted = set(get_peft_model_state_dict(model, adapter_name=name))
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
