"""From token states to one vector a text."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def last_token(states: Tensor, mask: Tensor) -> Tensor:
    """The last token's state (paper, Table 6)."""
    rows = torch.arange(len(states), device=states.device)
    return _wide(states[rows, last_positions(mask)])


def mean_of_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over tokens."""
    states = _wide(states)
    counted = mask.unsqueeze(-1).to(states.dtype)
    return (states * counted).sum(1) / counted.sum(1)


def first_token(states: Tensor, mask: Tensor) -> Tensor:
    """The first token's state: that of [CLS] in a BERT."""
    rows = torch.arange(len(states), device=states.device)
    return _wide(states[rows, mask.to(torch.long).argmax(dim=1)])


def largest_of_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """The largest value of each dimension over tokens."""
    return _wide(states).masked_fill(~mask.bool().unsqueeze(-1), -torch.inf).amax(dim=1)


def mean_by_root_of_length(states: Tensor, mask: Tensor) -> Tensor:
    """The sum over tokens, divided by the square root of their number."""
    mean = mean_of_tokens(states, mask)
    return mean * mask.sum(1, keepdim=True).to(mean.dtype).sqrt()


def mean_weighted_by_position(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over tokens, each weighted by its place in the text, from 1 (Muennighoff 2022)."""
    states = _wide(states)
    weights = (mask.cumsum(1) * mask).unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


def mean_of_unit_tokens(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over tokens whose states are scaled to unit length."""
    return mean_of_tokens(F.normalize(_wide(states), dim=-1), mask)


# From states [R, L, D] and mask [R, L], true where a token stands, whichever side is padded, to
# vectors [R, D] in the dtype of the states or float32, whichever is wider.
POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "last": last_token,
    "mean": mean_of_tokens,
    "cls": first_token,
    "max": largest_of_tokens,
    "mean_sqrt_length": mean_by_root_of_length,
    "weighted_mean": mean_weighted_by_position,
    "mean_of_unit_tokens": mean_of_unit_tokens,
}


def last_positions(mask: Tensor) -> Tensor:
    """Position [R] of each row's last token, whichever side of mask [R, L] is padded."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return (positions * mask).argmax(dim=1)


def _wide(states: Tensor) -> Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))
