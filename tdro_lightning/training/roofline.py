"""Seconds that a model's passes take at least, from their counted FLOPs and bytes.

PyTorch runs a model kernel by kernel: each reads its inputs from memory and writes its outputs. So
a kernel takes as long as its arithmetic or its traffic, whichever is more, and a pass the sum of
its kernels. In a small model with a LoRA most kernels are traffic only: dropout, casts and sums.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import PreTrainedModel

from tdro_lightning.models.adapter import AdapterInputs
from tdro_lightning.models.sparse_head import SparseHead
from tdro_lightning.models.tiled_max import sparse_vectors

FREE = {  # they move nothing: views, sizes and memory without content
    *("view", "_unsafe_view", "reshape", "t", "transpose", "permute", "expand", "as_strided"),
    *("slice", "select", "split", "split_with_sizes", "unbind", "squeeze", "unsqueeze"),
    *("detach", "alias", "lift_fresh", "device", "sym_size"),
    *("empty", "empty_like", "empty_strided", "new_empty"),
}
# On a CPU the mask of a dropout is made by two kernels of its own, on a GPU where it is used.
FREE_ON_A_GPU = FREE | {"bernoulli_", "div_"}
ACTIVE = 400  # terms of a text, assumed; SPLARE's documents keep so many (arXiv 2603.13277)
VALUES_READ = 10  # times that the backward pass of sparse vectors reads or writes all their values
GATHERED = {"embedding", "index"}  # they read as much as they write, whatever they choose from


@dataclass(frozen=True)
class Rates:
    """What a device does a second.

    Attributes:
        half: FLOPs of matrix products in bfloat16.
        single: FLOPs of matrix products in float32.
        memory: bytes read or written.
    """

    half: float
    single: float
    memory: float


# Dense bf16 and float32 FLOPs and bytes a second, from the makers' data sheets.
GPUS = {
    "H200": Rates(989.0e12, 66.9e12, 4.8e12),
    "H100": Rates(989.0e12, 66.9e12, 3.35e12),
    "A100": Rates(312.0e12, 19.5e12, 2.04e12),
    "L40S": Rates(362.0e12, 91.6e12, 0.864e12),
    "RTX 4090": Rates(165.2e12, 82.6e12, 1.008e12),
}


class Kernel(NamedTuple):
    """One call: its operation, FLOPs, bytes moved, and whether it multiplies in half precision."""

    name: str
    flops: int
    bytes: int
    half: bool


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the kernels that run in its block.

    Args:
        free: operations that count for nothing.

    Attributes:
        kernels: what ran, in order.
    """

    def __init__(self, free: Iterable[str] = FREE) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels: list[Kernel] = []
        self._free = set(free)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        output = func(*args, **keywords)
        name = func._schema.name.split("::")[1]
        if name not in self._free:
            counted = (output, output) if name in GATHERED else (args, keywords, output)
            tensors = [t for t in tree_leaves(counted) if isinstance(t, Tensor)]
            moved = sum(t.numel() * t.element_size() for t in tensors)
            flops = flop_registry.get(func._overloadpacket)
            count = flops(*args, **keywords, out_val=output) if flops else 0
            half = bool(tensors) and tensors[0].element_size() == 2
            self.kernels.append(Kernel(name, count, moved, half))
        return output


def seconds(kernels: Iterable[Kernel], rates: Rates) -> float:
    """The sum over kernels of the longer one of arithmetic and traffic."""
    return math.fsum(
        max(k.flops / (rates.half if k.half else rates.single), k.bytes / rates.memory)
        for k in kernels
    )


class FusedAttention(TorchFunctionMode):
    """Leaves the dropout of attention out: on a GPU it is inside the kernel, as on no CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        fused = {"dropout_p": 0.0} if func is F.scaled_dot_product_attention else {}
        return func(*args, **((kwargs or {}) | fused))


def passes(
    backbone: PreTrainedModel | PeftModel, texts: int, tokens: int, *, mixed: bool
) -> tuple[list[Kernel], list[Kernel]]:
    """Kernels of a forward and a backward pass over one chunk, as a GPU runs them.

    Nothing is computed or allocated: tensors have a shape only. Without gradients, as in eval mode
    of a reference, the backward pass is empty.

    Args:
        backbone: a model, which may lie on `meta`; its mode and `requires_grad` count.
        texts: in the chunk, R.
        tokens: of each text, L.
        mixed: whether the forward pass computes in bfloat16 whatever the parameters are.
    """
    with FakeTensorMode(), FusedAttention():
        tensors = (*backbone.named_parameters(), *backbone.named_buffers())
        shapes = {
            name: torch.empty(t.shape, dtype=t.dtype, requires_grad=t.requires_grad)
            for name, t in tensors
        }
        inputs = {"input_ids": torch.zeros(texts, tokens, dtype=torch.long)}
        forward, backward = Kernels(FREE_ON_A_GPU), Kernels(FREE_ON_A_GPU)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed), forward:
            AdapterInputs(backbone).adjust(torch.device("cpu"))
            states = functional_call(backbone, shapes, (), inputs).last_hidden_state
        if states.requires_grad:
            with backward:
                states.sum().backward()
    return forward.kernels, backward.kernels


def head_passes(head: SparseHead, texts: int, tokens: int) -> tuple[list[Kernel], list[Kernel]]:
    """Kernels of a sparse head behind the passes of `passes`.

    Its backward pass is one kernel here, which reads the values of all terms and, of `ACTIVE` in
    each text, a row of the weight.

    Args:
        head: that lies on `meta`.
        texts, tokens: as in `passes`.
    """
    weight, bias = head.parts
    hidden = weight.shape[1]
    states = torch.empty(texts, tokens, hidden, dtype=weight.dtype, device="meta")
    mask = torch.empty(texts, tokens, dtype=torch.bool, device="meta")
    with Kernels(FREE_ON_A_GPU) as forward:
        pooled = head.transform(states.requires_grad_())
        sparse_vectors(pooled, weight, bias, mask, head.scale, head.tile)
    active = texts * min(ACTIVE, head.terms) * (1 + head.trained)
    moved = VALUES_READ * texts * head.terms * 4 + 2 * active * hidden * weight.element_size()
    half = weight.element_size() == 2
    return forward.kernels, [Kernel("sparse_backward", 2 * active * hidden, moved, half)]
