"""The largest logit of each term over a text's tokens, without the logits of a batch.

Logits are made for some terms at a time, a tile, and only the largest of each text and its token
are kept. The backward pass needs no logits either: a term's gradient goes to one token.
Legend: R texts, L tokens a text, H hidden size, V terms.
"""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 1152  # by measurement: experiments/benchmarks; a multiple of `STRIP`
# A matrix product adds up a column's last bits as the place of the column among others says. MKL's
# kernels repeat after so many, so tiles of a multiple have the logits of a product with all terms.
STRIP = 48
ENTRIES = 2**18  # values of vectors whose gradient is sorted at a time, some 50 bytes each


def sparse_vectors(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor,
    scale: float = 1.0,
    tile: int = TILE,
) -> Tensor:
    """log(1 + relu(scale * z)), z the largest of each term's logits over a text's tokens.

    Where tokens tie, the first has the gradient.

    Args:
        states: [R, L, H] token states, brought to the weight's dtype.
        weight: [V, H]; the logits, before the scale, are computed in its dtype.
        bias: [V] in the same dtype, or None.
        mask: [R, L] true where a token counts.
        scale: above 0.
        tile: terms whose logits are held at a time; more than `STRIP` are made whole strips, and
            fewer than a strip more are held at the end.

    Returns:
        [R, V] float32, or float64 for such weights; 0 for a text in which no token counts.
    """
    states = states.to(weight.dtype)
    trained = any(value is not None and value.requires_grad for value in (states, weight, bias))
    if trained and torch.is_grad_enabled():
        result: Tensor = _TiledMax.apply(states, weight, bias, mask, scale, tile)
        return result
    return _pool(states, weight, bias, mask, scale, tile, with_tokens=False)[0]


class _TiledMax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor,
        scale: float,
        tile: int,
    ) -> Tensor:
        values, tokens = _pool(states, weight, bias, mask, scale, tile, with_tokens=True)
        to_states, to_weight = ctx.needs_input_grad[:2]
        # The states of a frozen head, and the weight that gets no gradient to them, may go.
        ctx.save_for_backward(
            values,
            tokens,
            states if to_weight else None,
            weight if to_states else None,
        )
        ctx.shape, ctx.scale, ctx.tile, ctx.dtype = states.shape, scale, tile, weight.dtype
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, tokens, states, weight = ctx.saved_tensors
        # The derivative of log(1 + x) is 1 / (1 + x), and that of relu 0 where it is not active.
        gradient = (gradient * ctx.scale).mul_(values.neg().exp_()).masked_fill_(~(values > 0), 0)
        to_bias = gradient.sum(0).to(ctx.dtype) if ctx.needs_input_grad[2] else None
        gradient = gradient.to(ctx.dtype)
        to_states = to_weight = None
        if weight is not None:
            to_states = _states_gradient(gradient, tokens, weight, ctx.shape)
        if states is not None:
            to_weight = _weight_gradient(gradient, tokens, states, ctx.tile)
        return to_states, to_weight, to_bias, None, None, None


def _pool(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor,
    scale: float,
    tile: int,
    *,
    with_tokens: bool,
) -> tuple[Tensor, Tensor]:
    """The pooled values [R, V], and for the backward pass the tokens [R, V] int32 they are of.

    A token that does not count has logits of -inf; a text without any that does has zeros, which
    have no gradient.
    """
    rows, length, _ = states.shape
    mask = mask.bool()
    flat, left_out = states.flatten(0, 1), ~mask[..., None]
    wide = torch.promote_types(weight.dtype, torch.float32)
    values = states.new_empty(rows, len(weight), dtype=wide)
    tokens = mask.new_empty((rows, len(weight)) if with_tokens else (0, 0), dtype=torch.int32)
    for part in _tiles(len(weight), tile):
        logits = F.linear(flat, weight[part], None if bias is None else bias[part])
        logits = logits.unflatten(0, (rows, length)).masked_fill_(left_out, -torch.inf)
        if with_tokens:
            values[:, part], tokens[:, part] = logits.max(dim=1)
        else:
            values[:, part] = logits.amax(dim=1)
    values.mul_(scale)
    values.masked_fill_(~mask.any(1, keepdim=True), 0)
    return values.relu_().log1p_(), tokens


def _tiles(terms: int, tile: int) -> list[slice]:
    """The tiles: whole strips, and a rest of a few terms in the last.

    Other kernels would multiply a broken strip, and sum in another order.
    """
    if tile > STRIP:
        tile = math.ceil(tile / STRIP) * STRIP
    starts = list(range(0, terms, tile))
    if len(starts) > 1 and terms - starts[-1] < min(tile, STRIP):
        starts.pop()
    return [slice(*ends) for ends in pairwise([*starts, terms])]


def _states_gradient(gradient: Tensor, tokens: Tensor, weight: Tensor, shape: Any) -> Tensor:
    """[R, L, H]: to each token the weights of the terms that are its own, times their gradient."""
    rows, length, hidden = shape
    result = weight.new_empty(rows, length, hidden)
    block = max(1, ENTRIES // len(weight))
    for start in range(0, rows, block):
        part = slice(start, start + block)
        row, term = gradient[part].nonzero(as_tuple=True)
        token = row * length + tokens[part][row, term]
        share = gradient[part][row, term]
        del row
        token, order = token.sort(stable=True)
        bags = len(gradient[part]) * length
        sums = _sum_rows(weight, term[order], share[order], token, bags)
        result[part] = sums.view(-1, length, hidden)
    return result


def _weight_gradient(gradient: Tensor, tokens: Tensor, states: Tensor, tile: int) -> Tensor:
    """[V, H]: to each term the states of the tokens that it has, times their gradient."""
    length, flat = states.shape[1], states.flatten(0, 1)
    result = states.new_empty(gradient.shape[1], states.shape[2])
    for start in range(0, len(result), tile):
        part = slice(start, start + tile)
        term, row = gradient[:, part].T.nonzero(as_tuple=True)  # in the order of terms
        token = row * length + tokens[:, part][row, term]
        share = gradient[:, part][row, term]
        result[part] = _sum_rows(flat, token, share, term, len(result[part]))
    return result


def _sum_rows(table: Tensor, chosen: Tensor, share: Tensor, bag: Tensor, bags: int) -> Tensor:
    """Weighted sums of rows of a table [T, H], one for each bag.

    Args:
        table: [T, H].
        chosen: [N] row of each summand.
        share: [N] weight of each summand.
        bag: [N] bag of each summand, ascending.
        bags: number of bags.

    Returns:
        [bags, H]; zeros for a bag of nothing.
    """
    starts = torch.searchsorted(bag, torch.arange(bags, device=bag.device))
    return F.embedding_bag(chosen, table, starts, mode="sum", per_sample_weights=share)
