"""What tells one encoder from another, so that embeddings of one never pass for another's."""

import hashlib
import json

import torch

from tdro_lightning.retrieval.encoder import Encoder


def encoder_fingerprint(encoder: Encoder) -> str:
    """SHA-256 of everything that decides an encoder's embeddings.

    These are the values and dtypes of its weights, its configuration and adapter, its attention
    kernels, its tokenizer, pooling and token limits. Device and chunk size are left out.
    """
    backbone = encoder.backbone
    tokenizer = json.loads(encoder.tokenizer.tokenizer.backend_tokenizer.to_str())
    settings = {
        "pooling": encoder.pooling,
        "tokens": [encoder.query_tokens, encoder.passage_tokens],
        "model": backbone.config.to_dict(),
        "attention": backbone.config._attn_implementation,
        # The scale of an adapter is in no tensor.
        "scaling": {
            n: str(m.scaling) for n, m in backbone.named_modules() if hasattr(m, "scaling")
        },
        # Truncation and padding are those of the last call.
        "tokenizer": {k: v for k, v in tokenizer.items() if k not in ("truncation", "padding")},
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in backbone.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
