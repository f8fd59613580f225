"""Collectives over the processes of a run; each is the identity in a single process."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from tdro_lightning.distributed.processes import rank, world_size

BUCKET = 2**27  # values summed over processes at a time


def gather_rows(values: Tensor) -> Tensor:
    """The rows of all processes in rank order, with gradient to every process's own rows.

    Each process must hand in the same number of rows. The backward pass sums the gradients that all
    processes have for a row, so losses must be divided by *global* counts and parameter gradients
    summed, not averaged, over processes.

    Args:
        values: [B, ...].

    Returns:
        [world size * B, ...].
    """
    return values if world_size() == 1 else _GatherRows.apply(values)


def largest(number: int) -> int:
    """The largest of the integers that the processes hand in."""
    if world_size() == 1:
        return number
    value = torch.tensor(number)
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of the tensors of like shape that the processes hand in, without gradient."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes, some together in each collective.

    A sum, not a mean: losses are divided by counts of the global batch. Gradients of sharded
    parameters have been summed in the backward pass.
    """
    present = (p.grad for p in parameters if p.grad is not None)
    gradients = [gradient for gradient in present if not isinstance(gradient, DTensor)]
    for bucket in _buckets(gradients) if world_size() > 1 else ():
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(gradients: list[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive gradients of at most `BUCKET` values, so that few are held twice."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        if bucket and sum(g.numel() for g in bucket) + gradient.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def require_equal_on_all_ranks(values: Tensor, what: str) -> None:
    """Refuse state that must be the same on every rank and is not.

    Raises:
        RuntimeError: names the ranks that differ from rank 0; raised on all ranks alike.
    """
    everyone = gather_rows(values.unsqueeze(0))
    differing = [i for i, theirs in enumerate(everyone) if not torch.equal(theirs, everyone[0])]
    if differing:
        raise RuntimeError(f"{what} of ranks {differing} differ from those of rank 0")


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.rows = len(values)
        parts = [torch.empty_like(values) for _ in range(world_size())]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)  # autograd may share it
        dist.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]
