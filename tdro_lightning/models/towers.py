"""Models with a tower for text and others, for images or sound: which part of them reads text."""

from torch import nn
from transformers import PreTrainedModel


def text_tower(backbone: PreTrainedModel) -> tuple[str, nn.Module] | None:
    """Name and module of the part that reads text; None where that is not known.

    The name is empty where the whole model does.
    """
    text = backbone.config.get_text_config()
    for name, module in backbone.named_modules():
        if isinstance(module, PreTrainedModel) and module.config is text:
            return name, module
    return None


def freeze_other_towers(backbone: PreTrainedModel) -> None:
    """Leave only the text's tower to train: no text passes the others, so none has a gradient."""
    tower = text_tower(backbone)
    if tower is not None:
        own = {id(parameter) for parameter in tower[1].parameters()}
        for parameter in backbone.parameters():
            parameter.requires_grad_(id(parameter) in own)
