"""From token states to one vector a text."""

from collections.abc import Callable

import torch
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


# From states [R, L, D] and mask [R, L], true where a token stands, whichever side is padded, to
# vectors [R, D] in the dtype of the states or float32, whichever is wider.
POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "last": last_token,
    "mean": mean_of_tokens,
}


def last_positions(mask: Tensor) -> Tensor:
    """Position [R] of each row's last token, whichever side of mask [R, L] is padded."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return (positions * mask).argmax(dim=1)


def _wide(states: Tensor) -> Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))
