"""Contrastive losses per query, computed in float32 or better whatever the autocast.

At the paper's temperature of 0.002 one step of bf16 between 0.5 and 1 is two logits, so scores are
never formed in half precision. Legend: B queries of this process, N = 1 + negatives passages a
query, P passages of the global batch, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tdro_lightning.distributed.collectives import gather_rows
from tdro_lightning.distributed.processes import rank, world_size
from tdro_lightning.errors import NonFiniteError
from tdro_lightning.models.sparse_rows import (
    BatchVectors,
    SparseRows,
    all_products,
    own_products,
    whole,
)


def hard_negative_losses(
    queries: BatchVectors, passages: BatchVectors, temperature: float
) -> Tensor:
    """InfoNCE of each query against its own passages only (Eq. 2).

    Args:
        queries: [B, D] unit vectors.
        passages: [B * N, D] or [B, N, D] unit vectors, the positive of a query first.
        temperature: softmax temperature.

    Returns:
        [B] losses.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scores = own_products(_wide(queries), _wide(passages)) / temperature
        return F.cross_entropy(scores, scores.new_zeros(len(scores)).long(), reduction="none")


def all_passage_losses(
    queries: BatchVectors,
    passages: BatchVectors,
    positive: Tensor,
    temperature: float,
    keys: Tensor | None = None,
) -> Tensor:
    """InfoNCE of each query against all passages of the global batch (Eq. 7).

    With keys, a passage that equals the query's positive is no negative of that query, whichever
    row it comes from. Eq. 7 says nothing of such passages.

    Args:
        queries: [B, D] unit vectors.
        passages: [P, D] unit vectors: own hard negatives, the others' positives and hard negatives.
        positive: [B] index into `passages` of each query's positive.
        temperature: softmax temperature.
        keys: [P] integers, equal where passages are; None takes every other passage as a negative.

    Returns:
        [B] losses.
    """
    with torch.autocast(queries.device.type, enabled=False):
        scores = all_products(_wide(queries), _wide(passages)) / temperature
        if keys is not None:
            same = keys == keys[positive, None]
            same[torch.arange(len(positive)), positive] = False
            scores = scores.masked_fill(same, -torch.inf)
        return F.cross_entropy(scores, positive, reduction="none")


Loss = Callable[[BatchVectors, BatchVectors, Tensor, float, Tensor | None], Tensor]

# Losses [B] of fine-tuning, with the arguments of `all_passage_losses`.
LOSSES: dict[str, Loss] = {
    "infonce": all_passage_losses,
}


def sum_over_prefixes(
    loss: Loss,
    dimensions: Sequence[int],
    queries: BatchVectors,
    passages: BatchVectors,
    positive: Tensor,
    temperature: float,
    keys: Tensor | None = None,
) -> Tensor:
    """The sum of a loss over the first values of all vectors, so that these do by themselves.

    Matryoshka representation learning (Kusupati et al. 2022, arXiv 2205.13147) with equal weights.

    Args:
        loss: of `LOSSES`; its further arguments follow.
        dimensions: how many values; none takes the vectors as they are.

    Returns:
        [B] losses.
    """
    if not dimensions:
        return loss(queries, passages, positive, temperature, keys)
    q, p = whole(queries), whole(passages)
    parts = [
        loss(_unit(q[:, :size]), _unit(p[:, :size]), positive, temperature, keys)
        for size in dimensions
    ]
    return torch.stack(parts).sum(0)


def require_finite_losses(
    losses: Tensor, domain: Tensor, names: Sequence[str], query_ids: Sequence[str], model: str
) -> None:
    """Refuse losses that would destroy every domain weight and the model, before any update.

    Args:
        losses: [B].
        domain: [B] domain index of each query.
        names: domain names, in index order.
        query_ids: ids of the B queries.
        model: whose losses these are, for the message.

    Raises:
        NonFiniteError: on every rank, naming the domains and rows of NaN or infinite losses.
    """
    bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
    # Asked of all ranks, so that none waits for one that has stopped.
    if not bool(torch.isfinite(gather_rows(losses.detach())).all()):
        where = f" of rank {rank()}" if world_size() > 1 else ""
        rows = ", ".join(f"{names[int(domain[i])]}:{query_ids[i]}" for i in bad[:5])
        raise NonFiniteError(
            f"{len(bad)} {model} losses{where} are not finite; nothing was updated; "
            f"first rows: {rows or 'on another rank'}",
            [
                {
                    "model": model,
                    "domain": names[int(domain[i])],
                    "query_id": query_ids[i],
                    "loss": str(losses[i].item()),
                }
                for i in bad
            ],
        )


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(_wide(vectors), dim=-1)


def _wide(values: Any) -> Any:
    if isinstance(values, SparseRows):  # float32 at least
        return values
    return values.to(torch.promote_types(values.dtype, torch.float32))
