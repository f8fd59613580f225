"""Low-rank adapters (LoRA) on all linear layers of a backbone."""

from collections.abc import Iterator
from contextlib import contextmanager
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


def add_adapter(backbone: PeftModel, path: str) -> str:
    """Load a second adapter from a folder, frozen and not in use; returns its name."""
    name = f"adapter{len(backbone.peft_config)}"
    backbone.load_adapter(path, name, is_trainable=False)
    return name


@contextmanager
def switched(backbone: PreTrainedModel | PeftModel, adapter: str | None) -> Iterator[None]:
    """Use another adapter in a block, in eval mode, then go on as before; None changes nothing."""
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
