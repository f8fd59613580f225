"""Models of a published shape without their weights: nothing is downloaded."""

from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from tdro_lightning.errors import ConfigError, did_you_mean

KEY = "model.architecture"
LEGACY = {"rope_theta"}  # what transformers still accepts from older config files


def from_architecture(
    architecture: Mapping[str, Any],
    device: str = "meta",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> PreTrainedModel:
    """An untrained model of a shape, without a head.

    Args:
        architecture: `model_type` and fields of that type's transformers configuration.
        device: where its parameters lie; on `meta` they have a shape and nothing else.
        dtype: dtype of the parameters.
        seed: seed of the initial weights.

    Raises:
        ConfigError: an unknown model type or field, or a value of the wrong type.
    """
    return from_config(architecture_config(architecture), device, dtype, seed)


def architecture_config(architecture: Mapping[str, Any]) -> PretrainedConfig:
    """The transformers configuration of a shape; it raises as `from_architecture` does."""
    kind = str(architecture.get("model_type"))
    if kind not in CONFIG_MAPPING:
        hint = did_you_mean(kind, CONFIG_MAPPING, most=3)
        raise ConfigError(f"{KEY}.model_type={kind} is not a model of transformers{hint}")
    known = CONFIG_MAPPING[kind]().to_dict().keys() | LEGACY
    unknown = sorted(architecture.keys() - known)
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise ConfigError(f"{KEY}.{unknown[0]} is not a field of {kind}{hint}")
    try:
        return CONFIG_MAPPING[kind].from_dict(dict(architecture))
    except StrictDataclassError as error:
        raise ConfigError(f"{KEY}: {' '.join(str(error).split())}") from None


def transformer_layers(backbone: nn.Module) -> list[nn.Module]:
    """The layers of a transformer, first to last; none of a model of an unknown build."""
    layers: list[nn.Module] = [
        module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    if layers:
        return layers
    # Older families have layers without a class in common: the longest list of modules.
    lists = [[*module] for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


def is_about_attention(error: ValueError) -> bool:
    """Whether transformers raised it since a family has not the attention kernels asked for."""
    return "attn_implementation" in str(error)


def from_config(
    config: PretrainedConfig,
    device: str = "meta",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    kind: Any = AutoModel,
) -> PreTrainedModel:
    """An untrained model of a transformers configuration; arguments as `from_architecture`.

    Its class is one of `kind`, of transformers' auto classes.
    """
    config.use_cache = False
    gpus = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=gpus), torch.device(device):
        torch.manual_seed(seed)
        try:
            made: PreTrainedModel = kind.from_config(
                config, dtype=dtype, attn_implementation="sdpa"
            )
        except ValueError as error:
            if not is_about_attention(error):
                raise
            made = kind.from_config(config, dtype=dtype, attn_implementation="eager")
    return made
