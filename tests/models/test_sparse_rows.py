"""Sparse rows against the same vectors with all their zeros, in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tdro_lightning.models import sparse_rows
from tdro_lightning.models.sparse_rows import (
    SparseRows,
    all_products,
    compact,
    gather_vectors,
    own_products,
    stack,
    sum_copies,
    whole,
)
from tests.processes import in_processes

WIDTH = 11


def made(rows: int, seed: int, share: float = 0.3) -> Tensor:
    """Random vectors of which some are all zeros or full."""
    random = torch.Generator().manual_seed(seed)
    vectors = torch.rand(rows, WIDTH, generator=random, dtype=torch.float64)
    kept = torch.rand(rows, WIDTH, generator=random) < share
    kept[seed % max(rows, 1) :: 5] = seed % 2 == 0
    return vectors * kept


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 99), st.data())
def test_rows_are_those_of_the_vectors(rows: int, seed: int, data: st.DataObject) -> None:
    vectors = made(rows, seed)
    sparse = SparseRows.of(vectors)
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), max_size=20)), dtype=int)
    ends = sorted(data.draw(st.lists(st.integers(0, rows), max_size=3)))
    assert torch.equal(sparse.dense(), vectors)
    assert torch.equal(sparse[chosen].dense(), vectors[chosen])
    parts = sparse.tensor_split(ends)
    assert len(parts) == len(ends) + 1
    for part, expected in zip(parts, vectors.tensor_split(ends), strict=True):
        assert torch.equal(part.dense(), expected)
    assert torch.equal(whole(stack(parts)), vectors)
    np.testing.assert_array_equal(sparse.csr().toarray(), vectors.numpy())
    sums, active = sparse.sums()
    torch.testing.assert_close(sums, vectors.sum(0), rtol=1e-12, atol=0)
    assert torch.equal(active, (vectors > 0).sum(0).double())
    torch.testing.assert_close(sparse.products(vectors[0]), vectors @ vectors[0])


@pytest.mark.parametrize("block", [1, 25, 10**6])
@pytest.mark.parametrize("forms", ["sparse sparse", "sparse dense", "dense sparse"])
def test_products_and_their_gradients(
    block: int, forms: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the values that are not zero; what gradient a zero would have, the head never asks."""
    monkeypatch.setattr(sparse_rows, "BLOCK", block)
    for product, formula in (
        (all_products, "bd,pd->bp"),
        (own_products, "bd,bnd->bn"),
    ):
        whole_leaves = [made(5, 1).requires_grad_(), made(15, 2).requires_grad_()]
        q, p = whole_leaves
        own = product is own_products
        expected = torch.einsum(formula, q, p.view(5, 3, WIDTH) if own else p)
        weights = torch.arange(1.0, 1 + expected.numel(), dtype=torch.float64).view_as(expected)
        (expected.exp() * weights).sum().backward()
        leaves = [
            (SparseRows.of(leaf) if form == "sparse" else leaf.detach().clone()).requires_grad_()
            for form, leaf in zip(forms.split(), whole_leaves, strict=True)
        ]
        found = product(*leaves)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        (found.exp() * weights).sum().backward()
        for leaf, whole_leaf in zip(leaves, whole_leaves, strict=True):
            assert leaf.grad is not None
            assert whole_leaf.grad is not None
            gradient = whole(leaf.grad)
            right = whole_leaf.grad
            if isinstance(leaf, SparseRows):
                right = right * (whole_leaf != 0)
            torch.testing.assert_close(gradient, right, rtol=1e-12, atol=1e-14)


def test_the_smaller_form_is_kept() -> None:
    few, many = made(6, 3, 0.2), torch.ones(6, WIDTH, dtype=torch.float64)
    assert isinstance(compact(few), SparseRows)
    assert isinstance(compact(many), Tensor)
    assert isinstance(stack([compact(few), compact(few), compact(many)]), SparseRows)
    mixed = stack([compact(few), compact(many), compact(many)])
    assert isinstance(mixed, Tensor)
    assert torch.equal(mixed, torch.cat([few, many, many]))
    assert not compact(few.requires_grad_()).detach().values.requires_grad  # type: ignore[union-attr]


def test_nan_is_kept() -> None:
    vectors = made(4, 5)
    vectors[2, 3] = torch.nan
    assert SparseRows.of(vectors).dense().isnan().nonzero().tolist() == [[2, 3]]


@pytest.mark.parametrize("sparse", [True, False])
def test_gradients_of_copies_are_summed(sparse: bool) -> None:
    distinct, places = made(4, 6), torch.tensor([2, 0, 2, 1, 3, 2])
    copies = SparseRows.of(distinct)[places] if sparse else distinct[places]
    found = whole(sum_copies(copies, places, 4))
    expected = torch.zeros_like(distinct).index_add_(0, places, distinct[places])
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def work(number: int, folder: str, share: float) -> None:
    """Two processes, of which the first hands in the form that `share` makes."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    vectors = compact(made(5, 10 + number, 0.2 if number else share)).requires_grad_()
    everyone = gather_vectors(vectors, sparse=True)
    loss_of(vectors, everyone).backward()
    assert vectors.grad is not None
    kept = {"everyone": whole(everyone).detach(), "gradient": whole(vectors.grad)}
    torch.save(kept, Path(folder) / f"{number}.pt")
    dist.destroy_process_group()


def loss_of(queries: Tensor | SparseRows, passages: Tensor | SparseRows) -> Tensor:
    return (all_products(queries, passages).exp() * torch.arange(10)).sum()


@pytest.mark.parametrize("share", [0.1, 1.0], ids=["both sparse", "one dense"])
def test_two_processes_equal_one(tmp_path: Path, share: float) -> None:
    in_processes(2, work, str(tmp_path), share)
    parts = [made(5, 10, share), made(5, 11, 0.2)]
    leaf = torch.cat(parts).requires_grad_()
    loss_of(leaf, leaf).backward()
    assert leaf.grad is not None
    for number, part in enumerate(parts):
        kept = torch.load(tmp_path / f"{number}.pt")
        assert torch.equal(kept["everyone"], leaf.detach())
        expected = leaf.grad.split(5)[number] * (part != 0)
        torch.testing.assert_close(kept["gradient"] * (part != 0), expected, rtol=1e-12, atol=0)
