"""What each variant's kernels need a token at the GPU's data sheet; they are counted, not run."""

from collections import Counter
from typing import Any

from probe import Probe
from variants import VARIANTS, Variant, chunk_size, data_sheet, made_encoder

from tdro_lightning.training.roofline import Kernel, passes, seconds


def measure(probe: Probe, name: str) -> None:
    """Record every variant as an encoder runs it; only a compiler knows kernels of compiled ones.

    So inputs of adapters are not cast.
    """
    for title, variant in VARIANTS.items():
        adapted = variant.trained and not variant.full
        if not (variant.compiled or (adapted and variant.cast)):
            probe.attempt(title, lambda variant=variant: _counted(probe, variant))


def _counted(probe: Probe, variant: Variant) -> dict[str, Any]:
    """Of a forward and a backward pass; the last layer is counted whole."""
    texts, length = chunk_size(probe)
    both = passes(made_encoder(probe, variant).backbone, texts, length, mixed=True)
    named = zip(("forward", "backward"), both, strict=True)
    return {title: _needs(kernels, texts * length) for title, kernels in named if kernels}


def _needs(kernels: list[Kernel], tokens: int) -> dict[str, Any]:
    moved: Counter[str] = Counter()
    for kernel in kernels:
        moved[kernel.name] += kernel.bytes
    return {
        "us_token": seconds(kernels, data_sheet()) * 1e6 / tokens,
        "mflops_token": sum(kernel.flops for kernel in kernels) / 1e6 / tokens,
        "kb_token": moved.total() / 1e3 / tokens,
        "kernels": len(kernels),
        "most_kb_token": {name: size / 1e3 / tokens for name, size in moved.most_common(8)},
    }
