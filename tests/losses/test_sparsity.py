"""Regularisers equal sentence-transformers' and autograd's, whole, in parts and over processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sparse_encoder.losses import FlopsLoss
from torch import Tensor

from tdro_lightning.losses.sparsity import (
    REGULARISERS,
    ColumnSums,
    flops,
    flops_of_domains,
    flops_of_rows,
    frequency_flops,
    frequency_weight,
    ramp,
)
from tdro_lightning.models.tiled_max import sparse_vectors
from tests.processes import in_processes

TEXTS, TERMS, DOMAINS = 12, 40, 4
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def made(texts: int = TEXTS, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Vectors of which about a quarter is active."""
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(texts, TERMS, generator=random, dtype=torch.float64) - 0.7).relu().to(dtype)


def direct(name: str, vectors: Tensor) -> Tensor:
    """The same by autograd over all vectors."""
    mean = vectors.mean(0)
    if name == "l1":
        return vectors.abs().sum(1).mean()
    if name == "df_flops":
        share = (vectors.detach() > 0).double().mean(0).numpy()
        with np.errstate(divide="ignore"):
            inner = np.where(share > 0, share ** (np.log(2) / np.log(0.1)) - 1, np.inf)
        mean = mean * torch.from_numpy(1 / (1 + inner**10))
    return (mean**2).sum()


@pytest.mark.parametrize("name", list(REGULARISERS))
def test_value_and_gradient_are_those_of_all_vectors(name: str) -> None:
    vectors = made().requires_grad_()
    expected = direct(name, vectors)
    (gradient,) = torch.autograd.grad(expected, vectors)
    found = REGULARISERS[name](ColumnSums.of(vectors))
    torch.testing.assert_close(found.value, expected.detach(), **CLOSE)
    # Where a weight is 0, the head lets no gradient through.
    active = vectors.detach() > 0
    torch.testing.assert_close(
        found.gradient.expand_as(gradient)[active], gradient[active], **CLOSE
    )
    (same,) = torch.autograd.grad((vectors @ found.gradient).sum(), vectors)
    torch.testing.assert_close(same[active], gradient[active], **CLOSE)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_flops_are_those_of_sentence_transformers(dtype: torch.dtype, atol: float) -> None:
    vectors = made(dtype=dtype)
    theirs = FlopsLoss(model=None).compute_loss_from_embeddings(vectors)  # type: ignore[arg-type]
    found = flops(ColumnSums.of(vectors)).value
    torch.testing.assert_close(found, theirs.double(), rtol=0, atol=atol)


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(0, TEXTS), max_size=4), seed=st.integers(0, 100))
def test_parts_add_up_to_the_whole(cuts: list[int], seed: int) -> None:
    """However the batch is cut, parts without texts included."""
    vectors = made(seed=seed)
    whole = ColumnSums.of(vectors)
    parts = [ColumnSums.of(part) for part in vectors.tensor_split(sorted(cuts))]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    for rule in REGULARISERS.values():
        for one, other in zip(rule(total), rule(whole), strict=True):
            torch.testing.assert_close(one, other, **CLOSE)


def test_a_cached_gradient_reaches_the_states() -> None:
    """Text by text, with column sums only, as by autograd through all texts at once."""
    random = torch.Generator().manual_seed(1)
    states = torch.randn(6, 5, 8, generator=random, dtype=torch.float64).requires_grad_()
    weight = torch.randn(TERMS, 8, generator=random, dtype=torch.float64)
    mask = torch.ones(6, 5, dtype=torch.bool)
    vectors = sparse_vectors(states, weight, None, mask)
    (expected,) = torch.autograd.grad(direct("df_flops", vectors), states)
    penalty = frequency_flops(ColumnSums.of(vectors))
    for row in range(6):
        own = sparse_vectors(states[row : row + 1], weight, None, mask[:1])
        own.backward(penalty.gradient.expand_as(own))
    torch.testing.assert_close(states.grad, expected, **CLOSE)


def test_shares_of_texts_and_domains_add_up() -> None:
    vectors = made()
    columns = ColumnSums.of(vectors)
    domain = torch.arange(TEXTS) % (DOMAINS - 1)  # the last has no text
    rows = flops_of_rows(vectors, columns)
    shares = flops_of_domains(vectors, domain, DOMAINS, columns)
    mean = vectors.numpy().mean(0)
    expected = [(vectors[domain == k].numpy() @ mean).sum() / TEXTS for k in range(DOMAINS)]
    np.testing.assert_allclose(shares.numpy(), expected, rtol=1e-12)
    assert shares[-1] == 0
    for parts in (rows, shares):
        torch.testing.assert_close(parts.sum(), flops(columns).value, **CLOSE)


def test_half_precision_is_summed_in_float64() -> None:
    vectors = made(dtype=torch.bfloat16).repeat(200, 1)
    columns = ColumnSums.of(vectors)
    assert columns.sums.dtype == torch.float64
    np.testing.assert_allclose(columns.sums.numpy(), vectors.double().numpy().sum(0), rtol=1e-12)


@pytest.mark.parametrize("name", list(REGULARISERS))
def test_no_texts_and_no_active_terms_cost_nothing(name: str) -> None:
    for vectors in (made()[:0], torch.zeros(3, TERMS)):
        found = REGULARISERS[name](ColumnSums.of(vectors))
        assert float(found.value) == 0
        assert found.gradient.isfinite().all()
    assert REGULARISERS[name](ColumnSums.of(torch.full((2, TERMS), torch.nan))).value.isnan()


def test_weight_of_a_frequency() -> None:
    share = torch.tensor([0.0, 1e-6, 0.05, 0.1, 0.2, 1.0], dtype=torch.float64)
    weight = frequency_weight(share)
    assert weight.tolist() == sorted(weight.tolist())
    assert weight[0] == 0
    assert weight[-1] == 1
    assert weight[3] == pytest.approx(0.5, abs=1e-12)
    assert frequency_weight(torch.tensor(0.3), middle=0.3) == pytest.approx(0.5, abs=1e-6)


def test_ramp() -> None:
    assert [ramp(step, 4) for step in range(6)] == [0, 0.0625, 0.25, 0.5625, 1, 1]
    assert ramp(0, 0) == 1


def work(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    rows = [slice(0, 5), slice(5, TEXTS)][number]
    vectors, domain = made()[rows], (torch.arange(TEXTS) % DOMAINS)[rows]
    columns = ColumnSums.of(vectors).over_processes()
    kept = {name: tuple(rule(columns)) for name, rule in REGULARISERS.items()}
    shares = flops_of_domains(vectors, domain, DOMAINS, columns)
    torch.save({"penalties": kept, "shares": shares}, Path(folder) / f"{number}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    in_processes(2, work, str(tmp_path))
    columns = ColumnSums.of(made())
    assert torch.equal(columns.over_processes().sums, columns.sums)
    shares = flops_of_domains(made(), torch.arange(TEXTS) % DOMAINS, DOMAINS, columns)
    for number in range(2):
        kept = torch.load(tmp_path / f"{number}.pt")
        torch.testing.assert_close(kept["shares"], shares, rtol=1e-9, atol=1e-9)
        for name, rule in REGULARISERS.items():
            for one, other in zip(kept["penalties"][name], rule(columns), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
