"""Forward and backward passes of attention alone over the same texts, padded and packed."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from probe import Probe
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
BACKENDS = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")


class Texts:
    """Texts of mixed lengths, and what one pass over their queries, keys and values takes."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.heads, self.width, count, self.limit = (
            (2, 16, 4, 32) if probe.dry else (16, 64, 64, 512)
        )
        torch.manual_seed(0)
        self.lengths = torch.randint(self.limit // 4, self.limit + 1, (count,))
        self.total, self.longest = int(self.lengths.sum()), int(self.lengths.max())
        ends = self.lengths.cumsum(0)
        self.starts = torch.cat([torch.zeros(1, dtype=torch.long), ends]).to(probe.device)

    @property
    def padded(self) -> tuple[int, ...]:
        """Sizes of a tensor with a row a text."""
        return len(self.lengths), self.heads, self.longest, self.width

    def took(self, work: Attention, sizes: tuple[int, ...]) -> dict[str, float]:
        """Milliseconds of a pass over tensors of such sizes, and microseconds a real token."""
        dtype = torch.float32 if self.probe.dry else torch.bfloat16
        given = [
            torch.randn(sizes, device=self.probe.device, dtype=dtype, requires_grad=True)
            for _ in range(3)
        ]

        def both() -> None:
            work(*given).sum().backward()
            for tensor in given:
                tensor.grad = None

        seconds = self.probe.seconds(both, 10)
        return {"milliseconds": seconds * 1e3, "microseconds_a_token": seconds * 1e6 / self.total}


def measure(probe: Probe, name: str) -> None:
    """Record each kind of attention."""
    texts = Texts(probe)
    padded = len(texts.lengths) * texts.longest
    probe.record("texts", {"count": len(texts.lengths), "tokens": texts.total, "padded": padded})
    for backend in BACKENDS:
        probe.attempt(f"padded, causal, {backend}", lambda b=backend: _padded(texts, b))
    probe.attempt("padded, boolean mask", lambda: _masked(texts))
    probe.attempt("packed, varlen_attn", lambda: _variable(texts))
    probe.attempt("packed, nested", lambda: _nested(texts))
    if not probe.dry:  # compiling takes a minute
        probe.attempt("packed, flex_attention", lambda: _flexible(texts))


def _padded(texts: Texts, backend: str) -> dict[str, float]:
    with sdpa_kernel(getattr(SDPBackend, backend)):
        return texts.took(
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), texts.padded
        )


def _masked(texts: Texts) -> dict[str, float]:
    """As an encoder that gives a mask pays for it."""
    real = torch.arange(texts.longest) < texts.lengths[:, None]
    before = torch.ones(texts.longest, texts.longest, dtype=torch.bool).tril()
    mask = (real[:, None, None, :] & before).to(texts.probe.device)
    return texts.took(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask), texts.padded)


def _variable(texts: Texts) -> dict[str, float]:
    from torch.nn.attention.varlen import varlen_attn

    starts, limit = texts.starts.to(torch.int32), texts.longest

    def work(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        made = varlen_attn(query, key, value, starts, starts, limit, limit, window_size=(-1, 0))
        assert isinstance(made, Tensor)
        return made

    return texts.took(work, (texts.total, texts.heads, texts.width))


def _nested(texts: Texts) -> dict[str, float]:
    shortest = int(texts.lengths.min())

    def work(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(
                tensor, texts.starts, max_seqlen=texts.longest, min_seqlen=shortest
            ).transpose(1, 2)
            for tensor in (query, key, value)
        )
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).values()

    return texts.took(work, (texts.total, texts.heads, texts.width))


def _flexible(texts: Texts) -> dict[str, float]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    size = -(-texts.total // 128) * 128
    text = torch.repeat_interleave(torch.arange(len(texts.lengths)), texts.lengths)
    text = F.pad(text, (0, size - texts.total), value=-1).to(texts.probe.device)

    def same(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (text[query] == text[key]) & (query >= key)

    blocks = create_block_mask(same, None, None, size, size, device=texts.probe.device)
    compiled = torch.compile(flex_attention, dynamic=False)
    return texts.took(
        lambda q, k, v: compiled(q, k, v, block_mask=blocks), (1, texts.heads, size, texts.width)
    )
