"""Regularisers that keep sparse vectors sparse, from sums over the texts of the global batch.

They depend on a batch through two numbers for each term: the sum of its weights, and the number of
texts in which it is active. So a process needs these of the others and not their vectors, and the
gradient of a weight is the same in all texts. They are meant for one side at a time: queries and
passages have sums of their own. Legend: B texts of the global batch, V terms, x_bv weights, at
least 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from tdro_lightning.distributed.collectives import sum_over_processes
from tdro_lightning.models.sparse_rows import BatchVectors, SparseRows


@dataclass(frozen=True)
class ColumnSums:
    """What regularisers need of a batch; those of its parts add up to those of the whole.

    Args:
        sums: [V] float64, each term's weights summed over texts.
        active: [V] float64, texts in which each term is above 0.
        texts: [] float64, their number.
    """

    sums: Tensor
    active: Tensor
    texts: Tensor

    @classmethod
    def of(cls, vectors: BatchVectors) -> Self:
        """Those of vectors [R, V] of this process, without gradient; R may be 0."""
        vectors = vectors.detach()
        if isinstance(vectors, SparseRows):
            sums, active = vectors.sums()
        else:
            sums = vectors.sum(0, dtype=torch.float64)
            active = (vectors > 0).sum(0).to(torch.float64)
        return cls(sums, active, sums.new_tensor(float(len(vectors))))

    def __add__(self, other: "ColumnSums") -> "ColumnSums":
        return ColumnSums(
            self.sums + other.sums, self.active + other.active, self.texts + other.texts
        )

    def over_processes(self) -> "ColumnSums":
        """Those of the texts of all processes, by one collective that each of them must enter."""
        flat = torch.cat([self.sums, self.active, self.texts[None]])
        sums, active, texts = sum_over_processes(flat).split([len(self.sums), len(self.active), 1])
        return ColumnSums(sums, active, texts[0])

    @property
    def mean(self) -> Tensor:
        """[V] float64, the mean vector; zeros for no texts."""
        return self.sums / self.texts.clamp(min=1)

    @property
    def frequency(self) -> Tensor:
        """[V] float64, the share of texts in which each term is active."""
        return self.active / self.texts.clamp(min=1)


class Penalty(NamedTuple):
    """A regulariser's value, and what it changes by with a weight.

    The gradient of x_bv is `gradient[v]`, in whichever text b: add it to a cached gradient of
    vectors [B, V], or add `(vectors @ gradient).sum()` to a loss, which has this gradient but
    another value.

    Args:
        value: [] float64.
        gradient: [V] float64.
    """

    value: Tensor
    gradient: Tensor


def flops(columns: ColumnSums) -> Penalty:
    """The sum over terms of the squared mean weight (Paria et al. 2020, arXiv 2004.05665).

    It estimates how many products a search takes. d/dx_bv = 2 / B^2 * sum over b of x_bv.
    """
    return _squared(columns, torch.ones_like(columns.sums))


def mean_l1(columns: ColumnSums) -> Penalty:
    """The mean over texts of the sum of their weights. d/dx_bv = 1 / B."""
    each = 1 / columns.texts.clamp(min=1)
    return Penalty(columns.mean.sum(), each.expand_as(columns.sums).contiguous())


def frequency_flops(columns: ColumnSums) -> Penalty:
    """FLOPS with each mean weighted by how common its term is: DF-FLOPS (arXiv 2505.15070).

    The sum over v of (w_v * mean of x_bv)^2, with w_v = `frequency_weight` of the share of texts in
    which v is active, a constant for the gradient. That share is the global batch's own, where the
    paper takes that of a part of the corpus every 100 steps; to do so, replace `active`.
    """
    return _squared(columns, frequency_weight(columns.frequency))


# By name, each from the column sums of the global batch.
REGULARISERS: dict[str, Callable[[ColumnSums], Penalty]] = {
    "flops": flops,
    "l1": mean_l1,
    "df_flops": frequency_flops,
}


def frequency_weight(share: Tensor, middle: float = 0.1, steepness: float = 10.0) -> Tensor:
    """From 0 for a term that no text has to 1 for one that all have (arXiv 2505.15070).

    1 / (1 + (share ** log_middle(2) - 1) ** steepness).

    Args:
        share: values from 0 to 1.
        middle: the share, between 0 and 1, whose weight is a half.
        steepness: how fast the weight grows there.
    """
    base = torch.tensor(middle, dtype=share.dtype, device=share.device)
    exponent = torch.log(torch.tensor(2.0, dtype=share.dtype, device=share.device)) / base.log()
    return 1 / (1 + (share**exponent - 1).clamp(min=0) ** steepness)


@dataclass(frozen=True)
class Sparsity:
    """What keeps the vectors of a training sparse, beside its loss.

    Args:
        kind: of `REGULARISERS`.
        queries, passages: factors of the regularisers of both sides.
        ramp_steps: optimiser steps in which the factors rise, see `ramp`.
    """

    kind: str
    queries: float
    passages: float
    ramp_steps: int

    def penalise(
        self,
        vectors: BatchVectors,
        count: int,
        step: int,
        domain: Tensor | None = None,
        names: Sequence[str] = (),
    ) -> dict[str, float]:
        """Add the gradient of both sides' penalties to the gradient of the vectors.

        Called by all processes together, between the loss's backward pass and the encoder's.

        Args:
            vectors: [B + P, V] of this process, the queries first, with a gradient.
            count: number of queries, B.
            step: optimiser step, from 0.
            domain: [B] index of each query's domain, which its passages have too; None where they
                are of one.
            names: domain names, in index order.

        Returns:
            what is logged: each side's penalty without its factor, active terms a text, and
            what each domain adds to FLOPS.
        """
        assert vectors.grad is not None, "run the loss's backward pass first"
        factor, logged = ramp(step, self.ramp_steps), {}
        parts: Any = vectors.detach().tensor_split([count])
        gradients: Any = vectors.grad.tensor_split([count])
        weights = {"queries": self.queries, "passages": self.passages}
        for part, gradient, (side, weight) in zip(parts, gradients, weights.items(), strict=True):
            columns = ColumnSums.of(part).over_processes()
            penalty = REGULARISERS[self.kind](columns)
            _add_to_rows(gradient, weight * factor * penalty.gradient)
            logged[f"sparsity/{self.kind}/{side}"] = float(penalty.value)
            logged[f"sparsity/terms/{side}"] = float(columns.active.sum() / columns.texts)
            if domain is not None:
                own = domain.repeat_interleave(len(part) // count)
                shares = flops_of_domains(part, own, len(names), columns).tolist()
                logged |= {
                    f"sparsity/flops_of_domain/{side}/{name}": share
                    for name, share in zip(names, shares, strict=True)
                }
        return logged


def ramp(step: int, steps: int) -> float:
    """The factor of a regulariser at an optimiser step: min(1, step / steps) squared.

    Args:
        step: from 0.
        steps: after so many it is 1; 0 is from the first on.
    """
    return 1.0 if step >= steps else (step / steps) ** 2


def flops_of_rows(vectors: BatchVectors, columns: ColumnSums) -> Tensor:
    """What each text adds to the FLOPS of the global batch: x_b times the mean vector, over B.

    Args:
        vectors: [R, V] of this process.
        columns: of the global batch.

    Returns:
        [R] float64, without gradient; over all texts of all processes it sums to `flops`.
    """
    if isinstance(vectors, SparseRows):
        products = vectors.products(columns.mean)
    else:
        products = vectors.detach().to(torch.float64) @ columns.mean
    return products / columns.texts.clamp(min=1)


def flops_of_domains(
    vectors: BatchVectors, domain: Tensor, domains: int, columns: ColumnSums
) -> Tensor:
    """Each domain's share of the FLOPS of the global batch, by a collective of all processes.

    Args:
        vectors: [R, V] of this process.
        domain: [R] index of each text's domain.
        domains: number of domains, K.
        columns: of the global batch.

    Returns:
        [K] float64, which sum to `flops`; 0 for a domain without texts in the batch.
    """
    rows = flops_of_rows(vectors, columns).cpu()  # a GPU would add them in any order
    shares = torch.zeros(domains, dtype=rows.dtype).index_add_(0, domain.cpu(), rows)
    return sum_over_processes(shares.to(columns.sums.device))


def _add_to_rows(vectors: BatchVectors, row: Tensor) -> None:
    """Add a row [V] to all vectors, in place: to the values that are not zero of sparse ones."""
    if isinstance(vectors, SparseRows):
        vectors.values.add_(row[vectors.terms])
    else:
        vectors.add_(row)


def _squared(columns: ColumnSums, weights: Tensor) -> Penalty:
    """The sum over terms of (weight * mean)^2."""
    weighted = weights**2 * columns.mean
    return Penalty((weighted * columns.mean).sum(), 2 * weighted / columns.texts.clamp(min=1))
