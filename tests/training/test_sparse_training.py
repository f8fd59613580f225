"""Training with sparse vectors: loss and FLOPS against autograd over the whole batch in float64."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import Logger

from tdro_lightning.data.domains import load_domains
from tdro_lightning.losses.sparsity import REGULARISERS, ColumnSums, Sparsity, ramp
from tdro_lightning.models import sparse_rows
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.sparse_head import SparseShape
from tdro_lightning.models.sparse_rows import SparseRows
from tdro_lightning.training.optim import Optimisation
from tests.fixtures.training import NAMES, OPTIMISATION, Parts
from tests.made_up import unrounded_norms, write_domains
from tests.models.test_sparse_encoder import write_llama
from tests.nightly import nightly_but

SPARSITY = Sparsity("flops", 0.3, 0.2, ramp_steps=0)


@pytest.fixture(scope="module")
def sparse_parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Three domains, and language models with a tied head."""
    folder = tmp_path_factory.mktemp("sparse")
    domains = load_domains(write_domains(folder), root=str(folder), hub=None, only=None)
    proxy, reference = (write_llama(folder / name, True) for name in ("proxy", "reference"))
    return Parts(domains, proxy, reference)


def note_gradients(module: Any, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The gradients of the encoder's parameters at the update, by name."""
    taken: dict[str, Any] = {}
    update = Optimisation.update

    def note(self: Optimisation, *given: Any) -> dict[str, float]:
        taken.update(
            {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}
        )
        return update(self, *given)

    monkeypatch.setattr(Optimisation, "update", note)
    return taken


@pytest.fixture(params=[True, False], ids=["nonzero values", "whole vectors"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the vectors of a batch are kept as their nonzero values, whatever is smaller."""
    monkeypatch.setattr(sparse_rows, "_smaller", lambda *given: request.param)
    return bool(request.param)


def flops(vectors: torch.Tensor) -> torch.Tensor:
    return vectors.mean(0).square().sum()


@pytest.mark.parametrize(
    "chunks", [{"kept_tokens": 10**6}, {"chunk_tokens": 100, "kept_tokens": 0}]
)
def test_fine_tuning_adds_flops_of_both_sides(
    sparse_parts: Parts,
    fit: Any,
    monkeypatch: pytest.MonkeyPatch,
    chunks: dict[str, int],
    form: bool,
) -> None:
    own = {"dtype": "float64", "sparse": SparseShape(), "temperature": 1.0, **chunks}
    module = sparse_parts.finetune(optimisation=replace(OPTIMISATION, sparsity=SPARSITY), **own)
    taken = note_gradients(module, module.encoder, monkeypatch)
    fit(module, sparse_parts.homogeneous(module.encoder), steps=1)
    twin = sparse_parts.finetune(**own)
    batch = next(iter(sparse_parts.homogeneous(twin.encoder).train_dataloader()))
    q, p = twin.encoder(batch.queries), twin.encoder(batch.passages)
    assert q.dtype == torch.float64
    positive = torch.arange(len(q)) * 2
    loss = F.cross_entropy(q @ p.T, positive) + 0.3 * flops(q) + 0.2 * flops(p)
    loss.backward()
    expected = {n: v.grad for n, v in twin.encoder.named_parameters() if v.grad is not None}
    assert taken.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(taken[name], gradient, rtol=1e-9, atol=1e-12)


def test_tdro_adds_flops_outside_of_the_measurement(
    sparse_parts: Parts, fit: Any, monkeypatch: pytest.MonkeyPatch, form: bool
) -> None:
    """The domain weights are those of a run without, and the gradient has the penalty beside."""
    own = {"dtype": "float64", "sparse": SparseShape(), "temperature": 1.0, "chunk_tokens": 200}
    weights = []
    for sparsity in (None, SPARSITY):
        module = sparse_parts.tdro(optimisation=replace(OPTIMISATION, sparsity=sparsity), **own)
        taken = note_gradients(module, module.proxy, monkeypatch)
        fit(module, sparse_parts.heterogeneous(module.proxy), steps=1)
        weights.append(module.weights.log_weights.exp())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-12, atol=0)
    assert not torch.allclose(weights[0], torch.full_like(weights[0], 1 / 3), atol=1e-4)

    twin = sparse_parts.tdro(**own)
    batch = next(iter(sparse_parts.heterogeneous(twin.proxy).train_dataloader()))
    q, p = twin.proxy(batch.queries), twin.proxy(batch.passages)
    scores = torch.einsum("bd,bnd->bn", q, p.view(len(q), 4, -1))
    losses = F.cross_entropy(scores, torch.zeros(len(q), dtype=torch.long), reduction="none")
    means = torch.stack([losses[batch.domain == i].mean() for i in range(len(NAMES))])
    loss = (weights[1] * means).sum() + 0.3 * flops(q) + 0.2 * flops(p)
    loss.backward()
    for name, value in twin.proxy.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(taken[name], value.grad, rtol=1e-9, atol=1e-12)


CHUNKS: dict[str, dict[str, Any]] = {
    "whole": {"chunk_tokens": 10**6, "kept_tokens": 10**6},
    "kept chunks": {"chunk_tokens": 150, "kept_tokens": 10**6},
    "chunks run twice": {"chunk_tokens": 100},
    "layers run again": {"chunk_tokens": 150, "activation_checkpointing": True},
    "both": {"chunk_tokens": 60, "kept_tokens": 500} | {"activation_checkpointing": True},
}
HEADS = {
    "tied": (True, SparseShape("quarter")),
    "tied, trained": (True, SparseShape(pooled="no_special", trained=True)),
    "untied": (False, SparseShape()),
    "untied, trained": (False, SparseShape("quarter", trained=True)),
}
WAYS = [(s, h, k) for s in ("finetune", "tdro") for h in HEADS for k in ("flops", "df_flops")]
WAYS_OFTEN = [("finetune", "untied, trained", "df_flops"), ("tdro", "tied, trained", "flops")]


@pytest.mark.parametrize(("stage", "head", "kind"), nightly_but(WAYS_OFTEN, WAYS))
def test_chunks_and_repeated_layers_change_nothing(
    tmp_path: Path, sparse_parts: Parts, fit: Any, stage: str, head: str, kind: str
) -> None:
    """Losses, penalties, gradients and weights of three steps, with and without an adapter."""
    tied, shape = HEADS[head]
    paths = [write_llama(tmp_path / str(seed), tied, seed, 0.4) for seed in (5, 6)]
    parts = Parts(sparse_parts.domains, *paths)
    optimisation = replace(OPTIMISATION, sparsity=replace(SPARSITY, kind=kind, ramp_steps=2))

    def trained(**changes: Any) -> dict[str, torch.Tensor]:
        own = {"dtype": "float64", "sparse": shape, "temperature": 1.0} | changes
        module = getattr(parts, stage)(optimisation=optimisation, **own)
        encoder = module.proxy if stage == "tdro" else module.encoder
        batches = parts.heterogeneous if stage == "tdro" else parts.homogeneous
        history = Kept()
        with pytest.MonkeyPatch.context() as patch, unrounded_norms():
            taken = note_gradients(module, encoder, patch)
            fit(module, batches(encoder), steps=3, logger=history)
        found = {f"gradient of {name}": value for name, value in taken.items()}
        found |= {name: p.detach() for name, p in encoder.named_parameters() if p.requires_grad}
        return found | {name: torch.tensor(value) for name, value in history.values.items()}

    for lora in (None, Lora(2, 4, 0.0)):
        expected = trained(lora=lora, **CHUNKS["whole"])
        steps = {name.split()[0] for name in expected if "sparsity/" in name}
        assert steps == {"0", "1", "2"}
        for way in list(CHUNKS)[1:]:
            found = trained(lora=lora, **CHUNKS[way])
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                message = f"{way}, {name}"
                torch.testing.assert_close(found[name], value, rtol=0, atol=1e-9, msg=message)


class Kept(Logger):
    """All that is logged, by step and name."""

    name = version = "kept"

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, float] = {}

    def log_hyperparams(self, *args: Any) -> None:
        """Nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.values |= {f"{step} {name}": value for name, value in metrics.items()}


@pytest.mark.parametrize("kind", REGULARISERS)
def test_the_factors_rise_with_the_square_of_the_step(kind: str) -> None:
    random = torch.Generator().manual_seed(1)
    vectors = torch.rand(9, 20, generator=random, dtype=torch.float64)
    for step in (0, 3, 10, 50):
        leaf = vectors.clone().requires_grad_()
        leaf.grad = torch.zeros_like(leaf)
        logged = Sparsity(kind, 2.0, 0.5, ramp_steps=10).penalise(leaf, 4, step)
        for rows, weight in ((slice(4), 2.0), (slice(4, None), 0.5)):
            penalty = REGULARISERS[kind](ColumnSums.of(vectors[rows]))
            expected = weight * ramp(step, 10) * penalty.gradient
            torch.testing.assert_close(leaf.grad[rows], expected.expand_as(leaf.grad[rows]))
        assert logged["sparsity/terms/queries"] == 20
        assert logged[f"sparsity/{kind}/passages"] == pytest.approx(float(penalty.value))


@pytest.mark.parametrize("sparse", [True, False])
def test_what_each_domain_adds_to_flops_is_logged(sparse: bool) -> None:
    random = torch.Generator().manual_seed(2)
    vectors = torch.rand(12, 20, generator=random, dtype=torch.float64).sub(0.5).relu()
    leaf = SparseRows.of(vectors) if sparse else vectors.clone()
    leaf.requires_grad_()
    (leaf.values if isinstance(leaf, SparseRows) else leaf).sum().backward()
    domain, names = torch.tensor([1, 0, 1, 1]), ("one", "two", "none")
    logged = Sparsity("l1", 1.0, 1.0, ramp_steps=0).penalise(leaf, 4, 0, domain, names)
    rows = {"queries": vectors[:4], "passages": vectors[4:]}
    owners = {"queries": domain, "passages": torch.tensor([1, 1, 0, 0, 1, 1, 1, 1])}
    for side, part in rows.items():
        each = part @ part.mean(0) / len(part)
        for number, name in enumerate(names):
            expected = float(each[owners[side] == number].sum())
            assert logged[f"sparsity/flops_of_domain/{side}/{name}"] == pytest.approx(expected)
    assert leaf.grad is not None
