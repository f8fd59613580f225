"""Low-rank adapters (LoRA) on all linear layers of a backbone."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from tdro_lightning.errors import ConfigError
from tdro_lightning.files import read_json

ADAPTER = "adapter_config.json"


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


def base_model(path: str) -> str | None:
    """Folder or hub name of the model that an adapter belongs to; None where there is no adapter.

    Args:
        path: folder or hub name of the adapter; its base may be named relative to the folder.

    Raises:
        ConfigError: the adapter names no base.
    """
    found = find_adapter_config_file(path)
    if found is None:
        return None
    base = read_json(Path(found)).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{found}: `base_model_name_or_path` must name the adapter's base model")
    beside = Path(found).parent / base
    return str(beside.resolve()) if beside.is_dir() else base


def load_adapter(backbone: PreTrainedModel, path: str) -> PeftModel:
    """The backbone with the adapter of a folder or hub name, trainable.

    Raises:
        ConfigError: the adapter's weights are of another model; PEFT would leave them out.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "(?s).*Found missing adapter keys", UserWarning)
        try:
            return PeftModel.from_pretrained(backbone, path, is_trainable=True)
        except (UserWarning, RuntimeError) as error:
            raise ConfigError(
                f"model.path={path}: the adapter does not fit its base model "
                f"{backbone.config.name_or_path} ({str(error).strip()[:200]})"
            ) from None


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
