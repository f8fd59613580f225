"""Fifty whole tDRO steps against NumPy in float64: losses, measurement, weights, AdamW, schedule.

The encoder is a bag of embeddings, so that its gradient can be written down by hand as well.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tdro_lightning.data.collator import Batch
from tdro_lightning.dro.measurement import Measurement
from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.tokens import Tokens
from tdro_lightning.training.optim import Optimisation
from tdro_lightning.training.tdro import TDROModule
from tests.fixtures.training import NAMES
from tests.nightly import nightly_but

STEPS, WIDTH, VOCABULARY, TEMPERATURE = 50, 6, 300, 0.05
OPTIMISATION = Optimisation(
    steps=STEPS, lr=3e-2, warmup_steps=10, min_lr_ratio=0.1, weight_decay=0.1, clip_norm=1.0
)


class Bag(nn.Module):
    """A backbone whose hidden states are embeddings; pooled by mean, with a gradient by hand."""

    config = SimpleNamespace()

    def __init__(self, seed: int) -> None:
        super().__init__()
        values = np.random.default_rng(seed).normal(size=(VOCABULARY, WIDTH))
        self.embedding = nn.Parameter(torch.from_numpy(values))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.embedding[input_ids])


def bag(seed: int) -> Encoder:
    """An encoder that needs several chunks for a batch, and runs all but one of them twice."""
    return Encoder(Bag(seed), None, "mean", 9, 9, chunk_tokens=100)


def texts_of(tokens: Tokens) -> list[np.ndarray]:
    return np.split(tokens.ids.numpy(), np.cumsum(tokens.lengths.numpy())[:-1])


def embed(table: np.ndarray, texts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    means = np.stack([table[text].mean(0) for text in texts])
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return means / norms, norms


def losses(table: np.ndarray, batch: Batch):
    """Eq. 2: losses, softmax, unit vectors and norms."""
    queries, query_norms = embed(table, texts_of(batch.queries))
    passages, passage_norms = embed(table, texts_of(batch.passages))
    shaped = passages.reshape(len(queries), -1, WIDTH)
    scores = np.einsum("bd,bnd->bn", queries, shaped) / TEMPERATURE
    softmax = np.exp(scores - scores.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    return -np.log(softmax[:, 0]), softmax, queries, query_norms, passages, passage_norms


def gradient(table: np.ndarray, batch: Batch, share: np.ndarray) -> np.ndarray:
    """Gradient of sum_i share_i loss_i with respect to the embeddings."""
    _, softmax, queries, query_norms, passages, passage_norms = losses(table, batch)
    slope = softmax.copy()
    slope[:, 0] -= 1
    slope *= share[:, None] / TEMPERATURE
    shaped = passages.reshape(len(queries), -1, WIDTH)
    total = np.zeros_like(table)
    for vectors, norms, slopes, texts in (
        (queries, query_norms, np.einsum("bn,bnd->bd", slope, shaped), texts_of(batch.queries)),
        (
            passages,
            passage_norms,
            (slope[..., None] * queries[:, None]).reshape(-1, WIDTH),
            texts_of(batch.passages),
        ),
    ):
        inner = (slopes - vectors * (vectors * slopes).sum(1, keepdims=True)) / norms
        for text, row in zip(texts, inner, strict=True):
            np.add.at(total, text, row / len(text))
    return total


def measured(name: str, proxy: np.ndarray, reference: np.ndarray, domain: np.ndarray):
    def mean(values: np.ndarray) -> np.ndarray:
        return np.array([values[domain == g].mean() for g in range(3)])

    if name == "ratio":
        means = mean(reference)
        return mean(proxy) / np.maximum(means, 0.5 * np.median(means))
    if name == "smooth_ratio":
        means = mean(reference)
        return mean(proxy) / np.sqrt(means**2 + (0.5 * np.median(means)) ** 2)
    if name == "released":
        scaled = reference / (512 * reference.mean())
        return mean(proxy / np.where(scaled < 1e-4, 1.0, scaled))
    if name == "difference":
        return mean(np.maximum(proxy - reference, 0))
    return mean(proxy)


def lr(step: int) -> float:
    if step < 10:
        return 3e-2 * (step + 1) / 10
    return 3e-2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 39)))


MEASURES = ["ratio", "smooth_ratio", "released", "difference", "plain"]
NORMS = ["clip", "unit", "none"]
PAIRS = [(name, how) for name in MEASURES for how in NORMS]
OFTEN = list(zip(MEASURES, [*NORMS, *NORMS], strict=False))  # each once at least


@pytest.mark.parametrize(("name", "how"), nightly_but(OFTEN, PAIRS))
def test_fifty_steps_equal_numpy(parts, fit, name: str, how: str) -> None:
    rate = 0.1 if how != "none" else 1e-3
    smoothing = 1e-3 if how == "unit" else 0.0
    weights = DomainWeights(NAMES, rate, how, smoothing)  # type: ignore[arg-type]
    module = TDROModule(
        bag(0),
        bag(1),
        weights,
        Measurement(name),  # type: ignore[arg-type]
        TEMPERATURE,
        OPTIMISATION,
    )
    tokenizer_owner = parts.encoder(parts.proxy_path)
    data = parts.heterogeneous(tokenizer_owner, batch_size=13, steps=STEPS)
    fit(module, data, steps=STEPS)

    table, frozen = (Bag(seed).embedding.detach().numpy().copy() for seed in (0, 1))
    alpha, average = np.full(3, 1 / 3), np.zeros(3)
    first, second = np.zeros_like(table), np.zeros_like(table)
    batches = parts.heterogeneous(tokenizer_owner, batch_size=13, steps=STEPS).train_dataloader()
    for step, batch in enumerate(batches):
        domain = batch.domain.numpy()
        measure = measured(name, losses(table, batch)[0], losses(frozen, batch)[0], domain)
        norm = np.linalg.norm(measure) or 1.0
        scale = {"clip": min(1, 1 / norm), "unit": 1 / norm, "none": 1.0}[how]
        alpha = alpha * np.exp(rate * scale * measure)
        alpha = (1 - smoothing) * alpha / alpha.sum() + smoothing / 3
        average = (average * step + alpha) / (step + 1)
        grad = gradient(table, batch, (alpha / np.bincount(domain))[domain])
        grad *= min(1, 1 / (np.linalg.norm(grad) + 1e-6))
        first = 0.9 * first + 0.1 * grad
        second = 0.999 * second + 0.001 * grad**2
        corrected = first / (1 - 0.9 ** (step + 1))
        spread = np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        table = table * (1 - lr(step) * 0.1) - lr(step) * corrected / spread

    np.testing.assert_allclose(weights.last, alpha, rtol=0, atol=1e-10)
    np.testing.assert_allclose(weights.mean, average, rtol=0, atol=1e-10)
    trained = module.proxy.backbone.embedding.detach().numpy()
    np.testing.assert_allclose(trained, table, rtol=0, atol=1e-10)
    assert np.ptp(alpha) > 1e-3  # something happened
