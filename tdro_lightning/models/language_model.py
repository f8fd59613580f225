"""Which language model a folder is, and the sparse head that its own head makes."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from tdro_lightning.errors import ConfigError
from tdro_lightning.models.head import WEIGHTS
from tdro_lightning.models.sparse_head import SCALES, SparseHead, SparseShape

# Kinds of language models, by what their heads predict: a masked token, or the next one.
KINDS: dict[str, Any] = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM}


def language_model_kind(config: PreTrainedConfig, path: str) -> str:
    """The kind of a language model: what it was saved as, else the one that its family has.

    Raises:
        ConfigError: transformers has no language model of this family.
    """
    saved = (config.architectures or [""])[0]
    if saved.endswith("ForMaskedLM"):
        return "masked"
    if saved.endswith(("ForCausalLM", "LMHeadModel")):
        return "causal"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "masked"
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "causal"
    raise ConfigError(
        f"model.head=sparse needs a language model, and model.path={path} is a "
        f"{config.model_type}; take a causal or masked language model, or model.head=dense"
    )


def sparse_head(model: Any, shape: SparseShape) -> SparseHead:
    """The head of a language model as a sparse head; see `SparseHead.of`.

    Raises:
        ConfigError: it has no head that can be used.
    """
    hidden = model.config.get_text_config().hidden_size
    scale = SCALES[shape.scale](hidden)
    head = SparseHead.of(model, scale=scale, pooled=shape.pooled, trained=shape.trained)
    head.shape, head.saturation = shape, shape.saturation
    return head


def take_head_weights(head: SparseHead, folder: Path) -> None:
    """Read a head's weights where an encoder's folder has them; else they are the base model's.

    Raises:
        RuntimeError, OSError, SafetensorError: they are damaged, or of another head.
    """
    if (folder / WEIGHTS).is_file():
        head.load_state_dict(load_file(folder / WEIGHTS))
