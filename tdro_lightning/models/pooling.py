"""From token states to one vector a text."""

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["last", "mean"]


def pool(states: Tensor, mask: Tensor, how: Pooling) -> Tensor:
    """Pool token states into one vector a row, whichever side is padded.

    Args:
        states: [R, L, D] last hidden states.
        mask: [R, L] true where a token stands.
        how: `last` takes the last token's state (paper, Table 6), `mean` the mean over tokens.

    Returns:
        [R, D] in the dtype of `states` or float32, whichever is wider.
    """
    wide = torch.promote_types(states.dtype, torch.float32)
    if how == "last":
        rows = torch.arange(len(states), device=states.device)
        return states[rows, last_positions(mask)].to(wide)
    kept = mask.unsqueeze(-1).to(wide)
    return (states.to(wide) * kept).sum(1) / kept.sum(1)


def last_positions(mask: Tensor) -> Tensor:
    """Position [R] of each row's last token, whichever side of mask [R, L] is padded."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return (positions * mask).argmax(dim=1)
