"""Losses of a batch's rows, and the gradient of their weighted sum (Eq. 6).

The weights depend on the losses (Eq. 5, Eq. 4), so they are known only when all rows have been run.
There are two ways to the same gradient:

* `TwoPasses`: run all texts, then run those again whose activations were not kept.
* `OnePass`: the sum is linear in the domain weights, and a row's loss depends on its own texts
  only. So each domain's gradient is taken at once and kept for itself, and the weights are applied
  to the gradients. Nothing runs twice, at the price of a gradient a domain.
"""

from bisect import bisect_left
from collections.abc import Callable

import torch
from peft import PeftModel
from torch import Tensor

from tdro_lightning.data.collator import Batch
from tdro_lightning.losses.gradient_cache import CachedEmbeddings
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.sparse_rows import BatchVectors
from tdro_lightning.models.tokens import Tokens, padded_tokens

Losses = Callable[
    [BatchVectors, int], Tensor
]  # vectors of R rows' texts, queries first, and R; to [R]
Backward = Callable[[Tensor], None]
Penalise = Callable[[BatchVectors, int], None]  # adds to the gradient of such vectors


class TwoPasses:
    """The gradient cache over the whole batch.

    Args:
        encoder: the encoder that trains.
        batch: B rows.
        losses: the loss of each row.
        seed: integers that the dropout of this batch depends on.
        backward: runs the backward pass of a scalar.
        penalise: adds the gradient of what depends on all rows; None adds nothing.

    Attributes:
        losses: [B], without gradient.
    """

    def __init__(
        self,
        encoder: Encoder,
        batch: Batch,
        losses: Losses,
        seed: tuple[int, ...],
        backward: Backward,
        penalise: Penalise | None = None,
    ) -> None:
        self._penalise = penalise
        self._cache = CachedEmbeddings(encoder, batch.texts, seed)
        self._graph = losses(self._cache.vectors, len(batch))
        self._backward = backward
        self.losses = self._graph.detach()

    def backward(self, coefficients: Tensor) -> None:
        """Give the parameters the gradient of the losses' sum weighted by coefficients [B]."""
        self._backward((coefficients * self._graph).sum())
        if self._penalise is not None:
            self._penalise(self._cache.vectors, len(self.losses))
        self._cache.backward(self._backward)


class OnePass:
    """One forward and one backward pass for each group of rows of one domain.

    Args:
        encoder: the encoder that trains; its parameters have no gradient yet.
        batch: B rows.
        groups: row indices that hold every row once, each of one domain.
        losses: the loss of each row.
        seed: integers that the dropout of this batch depends on.
        backward: runs the backward pass of a scalar.

    Attributes:
        losses: [B], without gradient.
    """

    def __init__(
        self,
        encoder: Encoder,
        batch: Batch,
        groups: list[Tensor],
        losses: Losses,
        seed: tuple[int, ...],
        backward: Backward,
    ) -> None:
        self._parameters = [p for p in encoder.parameters() if p.requires_grad]
        self._sums: dict[int, Tensor] = {}  # of a row's domain, under that row's index
        domain = batch.domain.cpu()
        first: dict[int, int] = {}
        values = []
        for number, rows in enumerate(groups):
            cache = CachedEmbeddings(encoder, batch.select(rows).texts, (*seed, number))
            graph = losses(cache.vectors, len(rows))
            backward(graph.sum())
            cache.backward(backward)
            values.append(graph.detach())
            row = first.setdefault(int(domain[rows[0]]), int(rows[0]))
            self._sums[row] = self._sums.get(row, 0) + self._take_gradients()
        self.losses = torch.cat(values)[torch.cat(groups).argsort()]

    def backward(self, coefficients: Tensor) -> None:
        """Give the parameters the gradient of the losses' sum weighted by coefficients [B].

        All rows of a domain have the same coefficient.
        """
        rows = list(self._sums)
        total = torch.zeros_like(self._sums[rows[0]])
        for row in rows:
            total += coefficients[row].to(total.dtype) * self._sums.pop(row)
        parts = total.split([p.numel() for p in self._parameters])
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def _take_gradients(self) -> Tensor:
        """All gradients in one vector; the parameters have none afterwards."""
        gradients = [
            p.grad if p.grad is not None else torch.zeros_like(p) for p in self._parameters
        ]
        for parameter in self._parameters:
            parameter.grad = None
        return torch.cat([gradient.flatten() for gradient in gradients])


def row_gradients(
    encoder: Encoder,
    batch: Batch,
    losses: Losses,
    seed: tuple[int, ...],
    backward: Backward,
    penalise: Penalise | None = None,
) -> TwoPasses | OnePass:
    """Run a batch in the way that costs less arithmetic, by `one_pass_groups`.

    What depends on all rows is known only when all have been run, so it needs two passes.
    """
    groups = None if penalise is not None else one_pass_groups(encoder, batch)
    if groups is None:
        return TwoPasses(encoder, batch, losses, seed, backward, penalise)
    return OnePass(encoder, batch, groups, losses, seed, backward)


def one_pass_groups(encoder: Encoder, batch: Batch) -> list[Tensor] | None:
    """Rows that run together in one pass, or None where two passes are the better way.

    A group is of one domain and keeps all its activations. Few texts run together, so more of what
    is run is padding: one pass pays where the forward passes that it saves cost more. With
    an adapter, a backward pass costs about as much as a forward pass (frozen weights need no
    gradient). Where every weight trains, a gradient a domain would not fit; where the backbone is
    sharded, all ranks must make the same passes, which their rows do not.

    Args:
        encoder: the encoder that trains.
        batch: B rows.

    Returns:
        row indices, the rows of a domain in the order of their longest texts.
    """
    if not isinstance(encoder.backbone, PeftModel) or encoder.sharded:
        return None
    texts, domain = batch.lengths_and_keys, batch.domain.cpu()
    run, twice = _run(encoder, texts)
    if not twice:
        return None
    order = texts[0].max(dim=1).values.argsort(descending=True, stable=True)
    groups, cost = [], 0
    for index in domain.unique():
        rest = order[domain[order] == index]
        while len(rest):
            group = rest[: max(1, _fitting(encoder, texts[:, rest]))]
            groups.append(group)
            rest = rest[len(group) :]
            own, own_twice = _run(encoder, texts[:, group])
            cost += 2 * own + own_twice
    return groups if cost < 2 * run + twice else None


def _fitting(encoder: Encoder, texts: Tensor) -> int:
    """How many rows of texts [2, R, 1 + N], from the first on, keep all their activations."""
    counts = range(1, texts.shape[1] + 1)
    return bisect_left(counts, True, key=lambda count: _run(encoder, texts[:, :count])[1] > 0)


def _run(encoder: Encoder, texts: Tensor) -> tuple[int, int]:
    """Padded tokens of a forward pass over texts, and of those that must run again.

    Args:
        encoder: whose chunks they are.
        texts: [2, R, 1 + N] lengths and keys.
    """
    lengths, keys = texts.flatten(1)
    chunks, _ = encoder.chunks_of(Tokens(lengths, lengths, keys))  # their ids are not looked at
    kept = encoder.kept_chunks(lengths, chunks)
    return padded_tokens(lengths, chunks), padded_tokens(lengths, chunks[kept:])
