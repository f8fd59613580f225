"""Where a fine-tuning step's time goes, of single changes: its passes alone, the host, the step."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from probe import Probe
from torch import Tensor
from variants import TINY, Variant, made_encoder

from tdro_lightning.losses.gradient_cache import CachedEmbeddings
from tdro_lightning.models.sparse_rows import whole
from tdro_lightning.models.tokens import Tokens, padded_tokens

QUERIES = 128
CASES = {
    "float32 base, input cast": Variant(),
    "bf16 base": Variant("bfloat16", cast=False),
    "bf16 base, compiled": Variant("bfloat16", cast=False, compiled=True),
    "bf16 base, no dropout": Variant("bfloat16", cast=False, dropout=0.0),
    "float32 base": Variant(cast=False),
}


def measure(probe: Probe, name: str) -> None:
    """Record each case."""
    for title, variant in CASES.items():
        if not (probe.dry and variant.compiled):  # compiling takes a minute
            probe.attempt(title, lambda variant=variant: _measured(probe, variant))


def _measured(probe: Probe, variant: Variant) -> dict[str, Any]:
    from steps import Settings, batches, module, shape, trained

    size = {"batch": 25, "query_tokens": 4, "passage_tokens": 8} if probe.dry else {}
    settings = Settings(
        **{"batch": QUERIES, "steps": 2, "warmup": 1, "device": probe.device, **size}
    )
    model: dict[str, Any] = {"architecture": TINY} if probe.dry else shape("qwen05b")
    encoder = made_encoder(probe, variant)
    encoder.kept_tokens = settings.kept_tokens
    rows = batches("finetune", settings, 1, model["architecture"]["vocab_size"])
    tokens = rows[0].queries.concatenate(rows[0].passages).to(probe.device)
    chunks = encoder.chunks(tokens.lengths)
    found: dict[str, Any] = {
        "tokens": len(tokens.ids),
        "padded": padded_tokens(tokens.lengths, chunks),
        "chunks": len(chunks),
    }

    def forward() -> list[Tensor]:
        with torch.autocast(probe.device, torch.bfloat16):
            return [encoder.embed_rows(tokens, chunk) for chunk in chunks]

    def both() -> None:
        for chunk in chunks:
            with torch.autocast(probe.device, torch.bfloat16):
                vectors = encoder.embed_rows(tokens, chunk)
            vectors.sum().backward()
        encoder.zero_grad(set_to_none=True)

    def cached() -> None:
        with torch.autocast(probe.device, torch.bfloat16):
            made = CachedEmbeddings(encoder, tokens, (1, 2, 3))
            whole(made.vectors).sum().backward()
            made.backward()
        encoder.zero_grad(set_to_none=True)

    found["forward"] = _timed(probe, forward, no_grad=True)
    found["both"] = _timed(probe, both)
    found["cached"] = _timed(probe, cached)
    found["replayed"] = _replayed(probe, encoder, tokens)
    if not probe.dry:
        torch.cuda.reset_peak_memory_stats()
    found["steps"] = trained(module("finetune", settings, model, encoder), rows, settings)
    if not probe.dry:
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def _timed(probe: Probe, work: Callable[[], object], *, no_grad: bool = False) -> dict[str, float]:
    """Seconds of the second run of some work: until the host is done with it, and in all."""
    with torch.no_grad() if no_grad else nullcontext():
        work()
        probe.wait()
        began = time.perf_counter()
        work()
        host = time.perf_counter() - began
        probe.wait()
    return {"host_seconds": host, "seconds": time.perf_counter() - began}


def _replayed(probe: Probe, encoder: Any, tokens: Tokens) -> dict[str, float]:
    """Whether a chunk that runs again with its graph has the vectors of its first run."""
    with torch.autocast(probe.device, torch.bfloat16):
        made = CachedEmbeddings(encoder, tokens, (1, 2, 3))
        last = len(made._chunks) - 1
        with torch.no_grad():
            first, other = made._embed(last), made._embed(0)
        again = made._embed(last).detach()
    return {
        "largest_difference": float((first - again).abs().max()),
        "vectors": float(first.abs().max()),
        "another_chunk": len(other),
    }
