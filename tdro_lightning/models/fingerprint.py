"""What tells one encoder from another, so that embeddings of one never pass for another's."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict

import torch
from torch import Tensor

from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.head import Head
from tdro_lightning.models.templates import PAPER


def encoder_fingerprint(encoder: Encoder) -> str:
    """SHA-256 of everything that decides an encoder's embeddings.

    These are the values and dtypes of its weights, its configuration and adapter, its attention
    kernels, its tokenizer, pooling and token limits. Device, chunk size and other adapters on the
    same base model are left out.
    """
    backbone = encoder.backbone
    own = encoder.adapter or getattr(backbone, "active_adapter", None)
    tokenizer = json.loads(encoder.tokenizer.tokenizer.backend_tokenizer.to_str())
    head = encoder.head.describe()
    settings = {
        "pooling": encoder.pooling,
        "tokens": [encoder.query_tokens, encoder.passage_tokens],
        "model": backbone.config.to_dict(),
        "attention": backbone.config._attn_implementation,
        # The scale of an adapter is in no tensor.
        "scaling": {
            name: module.scaling[own] if isinstance(module.scaling, dict) else module.scaling
            for name, module in backbone.named_modules()
            if hasattr(module, "scaling")
        },
        # What earlier versions did is left out, so that their embeddings are known again.
        **({} if encoder.templates == PAPER else {"templates": asdict(encoder.templates)}),
        **({} if head == Head().describe() else {"head": head}),
        # Truncation and padding are those of the last call.
        "tokenizer": {k: v for k, v in tokenizer.items() if k not in ("truncation", "padding")},
    }
    return hash_model(json.dumps(settings, sort_keys=True), _own_values(encoder, own))


def hash_model(settings: str, values: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of a model's settings, and of the name, dtype, shape and bytes of its tensors."""
    digest = hashlib.sha256(settings.encode())
    for name, value in values:
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _own_values(encoder: Encoder, own: str | None) -> Iterator[tuple[str, Tensor]]:
    """The weights, with those of the encoder's own adapter under one name whatever it is called."""
    adapters = getattr(encoder.backbone, "peft_config", {})
    for name, value in encoder.backbone.state_dict().items():
        parts = name.split(".")
        of_adapter = adapters.keys() & set(parts)
        if not of_adapter or own in of_adapter:
            yield ".".join("adapter" if part == own else part for part in parts), value
    yield from encoder.head.state_dict(prefix="head.").items()
