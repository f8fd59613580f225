"""Low-rank adapters (LoRA) on all linear layers of a backbone."""

from dataclasses import dataclass

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel


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
