"""Microseconds a token of one chunk, forwards and backwards, as it is and with single changes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from probe import Probe
from transformers.modeling_layers import GradientCheckpointingLayer

from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.tokens import Tokens
from tdro_lightning.training.callbacks.throughput import useful_flops
from tdro_lightning.training.roofline import GPUS, Rates

TINY = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2000,
}


@dataclass(frozen=True)
class Variant:
    """An encoder's chunk.

    Args:
        dtype: of the base model.
        full: train every weight instead of a LoRA.
        trained: as the proxy; else as a reference, without gradients.
        dropout: of the LoRA.
        cast: cast an adapter's inputs to the adapter's dtype, as PEFT does.
        merged: put the adapter into the base's weights first.
        halved: make every weight bfloat16, trained ones too.
        compiled: compile every layer but the last.
    """

    dtype: str = "float32"
    full: bool = False
    trained: bool = True
    dropout: float = 0.1
    cast: bool = True
    merged: bool = False
    halved: bool = False
    compiled: bool = False


VARIANTS = {
    "lora, float32 base": Variant(),
    "lora, bf16 base": Variant("bfloat16"),
    "lora, bf16 base, no input cast": Variant("bfloat16", cast=False),
    "lora, bf16 base, no input cast, no dropout": Variant("bfloat16", cast=False, dropout=0.0),
    "reference, float32": Variant(trained=False),
    "reference, bf16": Variant("bfloat16", trained=False),
    "reference, bf16, adapter merged": Variant("bfloat16", trained=False, merged=True),
    "full, float32 under autocast": Variant(full=True),
    "full, bf16": Variant(full=True, halved=True),
    "lora, bf16 base, compiled": Variant("bfloat16", compiled=True),
    "lora, bf16 base, no input cast, compiled": Variant("bfloat16", cast=False, compiled=True),
    "full, bf16, compiled": Variant(full=True, halved=True, compiled=True),
}


def measure(probe: Probe, name: str) -> None:
    """Record every variant."""
    for title, variant in VARIANTS.items():
        if not (probe.dry and variant.compiled):  # compiling takes a minute
            probe.attempt(title, lambda variant=variant: _measured(probe, variant))


def _measured(probe: Probe, variant: Variant) -> dict[str, float]:
    texts, length = chunk_size(probe)
    chunk = texts * length
    made = made_encoder(probe, variant)
    tokens = Tokens(torch.randint(2000, (chunk,)), torch.full((texts,), length)).to(probe.device)
    rows = torch.arange(texts)
    if not probe.dry:
        torch.cuda.reset_peak_memory_stats()

    def forward() -> torch.Tensor:
        with torch.autocast(probe.device, torch.bfloat16):
            return made.embed_rows(tokens, rows)

    def both() -> None:
        forward().sum().backward()
        made.zero_grad(set_to_none=True)

    found = {"forward_us_token": _microseconds(probe, torch.no_grad()(forward), chunk)}
    if variant.trained:
        found["both_us_token"] = _microseconds(probe, both, chunk)
    if not probe.dry:
        found["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        if variant.trained:
            useful = useful_flops(made, 0) / (found["both_us_token"] / 1e6)
            found["mfu"] = useful / data_sheet().half
    return found


def chunk_size(probe: Probe) -> tuple[int, int]:
    """Texts in a chunk, and tokens of each."""
    return (4, 32) if probe.dry else (64, 256)


def made_encoder(probe: Probe, variant: Variant) -> Encoder:
    """The encoder of a variant, on the probe's device."""
    from steps import Settings, encoder, shape

    settings = Settings(
        full=variant.full, lora_dropout=variant.dropout, device=probe.device, chunk_tokens=16_384
    )
    model: dict[str, Any] = {"architecture": TINY} if probe.dry else shape("qwen05b")
    made = encoder(
        settings, model | {"dtype": variant.dtype}, 0, trained=variant.trained or variant.merged
    )
    if variant.merged:
        made.backbone = made.backbone.merge_and_unload()
    if not variant.trained:
        made.requires_grad_(False)
    if variant.halved:
        made.to(torch.bfloat16)
    if variant.cast:  # as PEFT does it where an encoder does not leave it out
        made._adapter_inputs.adjust = lambda device: None
    if variant.compiled:
        layers = [m for m in made.backbone.modules() if isinstance(m, GradientCheckpointingLayer)]
        for layer in layers[:-1]:
            layer.compile(dynamic=True)
    return made.train(variant.trained)


def _microseconds(probe: Probe, work: Callable[[], object], tokens: int) -> float:
    return probe.seconds(work) * 1e6 / tokens


def data_sheet() -> Rates:
    """Rates of this GPU; of an H100 where there is none that we know."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((rates for known, rates in GPUS.items() if known in name), GPUS["H100"])
