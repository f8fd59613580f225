"""A decoder's last layer, without the work whose result nobody reads.

Last-token pooling reads one state a text. Attention in the last layer needs every token's keys and
values, but what comes after it, the feed-forward block, acts on each token alone: it is run on the
pooled tokens only. The vectors and gradients stay what they were; of n layers one nth of the
feed-forward work goes, forwards and backwards, and its activations with it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from tdro_lightning.models.shapes import transformer_layers

# A layer of these parts adds the feed-forward block's output to the attention block's.
PARTS = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
ARGUMENT = "pooled_positions"


class LastLayer:
    """Hooks on a backbone's last layer.

    The positions travel as an argument of the layer, so that a layer whose activations are
    checkpointed finds those of its own texts when it runs again. The residual connection adds
    [R, 1, D] to [R, L, D]: only the pooled tokens' states are right after that.

    Args:
        layer: a decoder layer of the parts in `PARTS`.

    Attributes:
        feed_forward: the block that pooled tokens alone pass.
    """

    def __init__(self, layer: nn.Module) -> None:
        parts = dict(layer.named_children())
        self._given: Tensor | None = None
        self._positions: Tensor | None = None
        self.feed_forward = parts["mlp"]
        layer.register_forward_pre_hook(self._give, with_kwargs=True)
        parts["self_attn"].register_forward_pre_hook(self._take, with_kwargs=True)
        parts["post_attention_layernorm"].register_forward_pre_hook(self._pick)

    @contextmanager
    def only(self, positions: Tensor) -> Iterator[None]:
        """Forward passes in this block need the states at positions [R] of their R texts alone."""
        self._given = positions
        try:
            yield
        finally:
            self._given = None

    def _give(self, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, kwargs if self._given is None else kwargs | {ARGUMENT: self._given}

    def _take(self, attention: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        self._positions = kwargs.pop(ARGUMENT, None)
        return args, kwargs

    def _pick(self, norm: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        if self._positions is None:
            return None
        rows = torch.arange(len(self._positions), device=self._positions.device)
        return (args[0][rows, self._positions].unsqueeze(1),)


def last_layer(backbone: nn.Module) -> LastLayer | None:
    """The last layer of a backbone, hooked once; None where its layers are of another kind."""
    layers = transformer_layers(backbone)
    if not layers or {name for name, _ in layers[-1].named_children()} != PARTS:
        return None
    layer = layers[-1]
    if "pooled" not in layer.__dict__:  # two encoders may share the backbone
        layer.__dict__["pooled"] = LastLayer(layer)
    return cast(LastLayer, layer.__dict__["pooled"])
