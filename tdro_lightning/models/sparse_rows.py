"""Sparse vectors of a training batch as their nonzero values alone, with a gradient.

A batch's vectors are held from the forward to the backward pass, so they bound its size: a text of
300 active terms of 128,256 takes 3.6 kB so, and 1 MB with all zeros and their gradient. What needs
whole vectors makes them for some rows at a time. Legend: N rows, V terms, Z nonzero values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tdro_lightning.distributed.collectives import gather_rows, largest
from tdro_lightning.distributed.processes import world_size

BLOCK = 2**25  # values of vectors that are made whole at a time


@dataclass(frozen=True)
class SparseRows:
    """The nonzero values of N vectors, row after row.

    Args:
        values: [Z]; their gradient is the vectors' where these are not zero.
        terms: [Z] int32 term of each value, ascending in a row.
        counts: [N] int64 number of values in each row; always in the host's memory.
        width: values of a vector, zeros included, V.
    """

    values: Tensor
    terms: Tensor
    counts: Tensor
    width: int

    @classmethod
    def of(cls, vectors: Tensor) -> "SparseRows":
        """The nonzero values of vectors [N, V], without gradient; NaN is not zero."""
        vectors = vectors.detach()
        row, term = vectors.nonzero(as_tuple=True)
        counts = (vectors != 0).sum(1).cpu()
        return cls(vectors[row, term], term.to(torch.int32), counts, vectors.shape[1])

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def shape(self) -> tuple[int, int]:
        """N and V."""
        return len(self), self.width

    @property
    def device(self) -> torch.device:
        """Where the values lie."""
        return self.values.device

    def __getitem__(self, rows: Tensor) -> "SparseRows":
        """The rows at some indices [R], in their order."""
        chosen = rows.tolist()
        counts = self.counts.tolist()
        values, terms = self.values.split(counts), self.terms.split(counts)
        return replace(
            self,
            values=_joined([values[i] for i in chosen], self.values),
            terms=_joined([terms[i] for i in chosen], self.terms),
            counts=self.counts[rows.cpu()],
        )

    @property
    def grad(self) -> "SparseRows | None":
        """The gradient of the values, in place of these and in the same memory."""
        return None if self.values.grad is None else replace(self, values=self.values.grad)

    def requires_grad_(self) -> "SparseRows":
        """Itself, with values that take a gradient."""
        self.values.requires_grad_()
        return self

    def detach(self) -> "SparseRows":
        """The same without gradient."""
        return replace(self, values=self.values.detach())

    def split(self, sizes: Sequence[int]) -> list["SparseRows"]:
        """Consecutive parts of so many rows each."""
        counts = self.counts.split(list(sizes))
        each = [int(part.sum()) for part in counts]
        parts = zip(self.values.split(each), self.terms.split(each), counts, strict=True)
        return [SparseRows(values, terms, own, self.width) for values, terms, own in parts]

    def tensor_split(self, ends: Sequence[int]) -> list["SparseRows"]:
        """Consecutive parts that end before these rows, and the rest."""
        edges = [0, *ends, len(self)]
        return self.split([end - start for start, end in zip(edges, edges[1:], strict=False)])

    def blocks(self, rows: int) -> list["SparseRows"]:
        """Consecutive parts of so many rows, the last of fewer."""
        return self.tensor_split(range(rows, len(self), rows))

    def dense(self) -> Tensor:
        """The vectors, [N, V]; they carry the values' gradient."""
        counts = self.counts.to(self.terms.device)
        row = torch.arange(len(self), device=counts.device).repeat_interleave(counts)
        zeros = self.values.new_zeros(len(self) * self.width)
        return zeros.scatter(0, row * self.width + self.terms, self.values).view(-1, self.width)

    def csr(self) -> csr_matrix:
        """The same as a matrix in the host's memory."""
        starts = torch.cat([torch.zeros(1, dtype=torch.long), self.counts.cumsum(0)])
        values, terms = self.values.detach().cpu().numpy(), self.terms.cpu().numpy()
        return csr_matrix((values, terms, starts.numpy()), shape=(len(self), self.width))

    def sums(self) -> tuple[Tensor, Tensor]:
        """Each term's sum of values in float64, [V], and in how many rows it is above 0, [V]."""
        order = self.terms.argsort(stable=True)  # sums in the order of rows, on a GPU too
        values = self.values.detach()[order].to(torch.float64)
        found = self.terms.bincount(minlength=self.width)
        active = self.terms[self.values.detach() > 0].bincount(minlength=self.width)
        return torch.segment_reduce(values, "sum", lengths=found), active.to(torch.float64)

    def products(self, weights: Tensor) -> Tensor:
        """Each row's product with weights [V] float64: [N] float64, without gradient."""
        each = self.values.detach().to(torch.float64) * weights[self.terms]
        return torch.segment_reduce(each, "sum", lengths=self.counts.to(self.device))


BatchVectors = Tensor | SparseRows  # of a batch's texts, one each; sparse ones in either form


def compact(vectors: Tensor) -> BatchVectors:
    """Vectors [N, V] in the form that takes less memory, without gradient."""
    few = _smaller(int(vectors.count_nonzero()), vectors.numel())
    return SparseRows.of(vectors) if few else vectors.detach()


def whole(vectors: BatchVectors) -> Tensor:
    """Vectors [N, V] of either form."""
    return vectors if isinstance(vectors, Tensor) else vectors.dense()


def stack(parts: Sequence[BatchVectors]) -> BatchVectors:
    """The rows of some parts of either form, one part after the other, in the smaller form."""
    active = sum(part.numel() if isinstance(part, Tensor) else len(part.values) for part in parts)
    width = parts[0].shape[1]
    if not _smaller(active, sum(map(len, parts)) * width):
        return torch.cat([whole(part) for part in parts])
    rows = [SparseRows.of(part) if isinstance(part, Tensor) else part for part in parts]
    return SparseRows(
        torch.cat([part.values for part in rows]),
        torch.cat([part.terms for part in rows]),
        torch.cat([part.counts for part in rows]),
        width,
    )


def gather_vectors(vectors: BatchVectors, sparse: bool) -> BatchVectors:
    """The rows of all processes in rank order, as `gather_rows`, which sends zeros, too.

    Each process must hand in the same number of rows, in either form; all get the same form.

    Args:
        vectors: those of this process.
        sparse: whether some process may have sparse rows; all processes say the same.
    """
    if world_size() == 1:
        return vectors
    if not sparse or largest(isinstance(vectors, Tensor)):
        return gather_rows(whole(vectors))
    assert isinstance(vectors, SparseRows)
    counts = gather_rows(vectors.counts.to(vectors.terms.device)).cpu()
    own = counts.view(world_size(), -1).sum(1).tolist()
    missing = max(own) - len(vectors.values)

    def gather(part: Tensor) -> Tensor:
        parts = gather_rows(torch.nn.functional.pad(part, (0, missing))[None])
        return torch.cat([part[:count] for part, count in zip(parts, own, strict=True)])

    return SparseRows(gather(vectors.values), gather(vectors.terms), counts, vectors.width)


def all_products(queries: BatchVectors, passages: BatchVectors) -> Tensor:
    """Products [B, P] of queries [B, V] with all passages [P, V]."""
    if not (isinstance(queries, SparseRows) and isinstance(passages, SparseRows)):
        return whole(queries) @ whole(passages).T
    rows = max(1, BLOCK // queries.width)
    return torch.cat(
        [
            torch.cat(
                [_twice(lambda q, p: q @ p.T, few, some) for some in passages.blocks(rows)], dim=1
            )
            for few in queries.blocks(rows)
        ]
    )


def own_products(queries: BatchVectors, passages: BatchVectors) -> Tensor:
    """Products [B, N] of each query [B, V] with its own passages, [B * N, V] in its order."""
    if not (isinstance(queries, SparseRows) and isinstance(passages, SparseRows)):
        return _own(whole(queries), whole(passages))
    each = len(passages) // len(queries)
    rows = max(1, BLOCK // (queries.width * (1 + each)))
    pairs = zip(queries.blocks(rows), passages.blocks(rows * each), strict=True)
    return torch.cat([_twice(_own, few, some) for few, some in pairs])


def sum_copies(gradient: BatchVectors, places: Tensor, count: int) -> BatchVectors:
    """The gradient of distinct rows from that of N rows that are copies of them.

    Args:
        gradient: of N vectors, in either form.
        places: [N] distinct row of each.
        count: number of distinct rows, U; each has a copy.

    Returns:
        of U vectors, in the same form; copies are summed in their order, on a GPU too.
    """
    if isinstance(gradient, Tensor):
        counts = places.bincount(minlength=count).to(gradient.device)
        ordered = gradient[places.argsort(stable=True).to(gradient.device)]
        return torch.segment_reduce(ordered, "sum", lengths=counts)
    sums: list[Tensor | None] = [None] * count
    first = torch.empty(count, dtype=torch.long)
    for row, (place, share) in enumerate(
        zip(places.tolist(), gradient.values.split(gradient.counts.tolist()), strict=True)
    ):
        before = sums[place]
        sums[place] = share if before is None else before + share
        first[place] = row
    return replace(gradient[first], values=torch.cat([part for part in sums if part is not None]))


def _joined(parts: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat(parts) if parts else like[:0]


def _smaller(active: int, size: int) -> bool:
    """Whether values with their terms take less memory than all values, gradients counted."""
    return 3 * active < 2 * size


def _own(queries: Tensor, passages: Tensor) -> Tensor:
    own = passages.reshape(len(queries), -1, queries.shape[1])
    return torch.einsum("bd,bnd->bn", queries, own)


def _twice(product: Any, queries: SparseRows, passages: SparseRows) -> Tensor:
    """A product of whole vectors, which are made again in the backward pass and not held."""

    def run(q: Tensor, p: Tensor) -> Tensor:
        found: Tensor = product(
            replace(queries, values=q).dense(), replace(passages, values=p).dense()
        )
        return found

    result: Tensor = checkpoint(
        run, queries.values, passages.values, use_reentrant=False, preserve_rng_state=False
    )
    return result
