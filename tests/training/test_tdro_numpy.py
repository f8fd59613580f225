"""Many whole tDRO steps against NumPy in float64: losses, measurement, weights, AdamW, schedule.

The encoder is a bag of embeddings, so that its gradient can be written down by hand as well. Its
vectors are dense, or sparse by a head that is tied to the embeddings, frozen or trained.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tdro_lightning.data.collator import Batch
from tdro_lightning.dro.measurement import Measurement
from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.losses.sparsity import Sparsity
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.sparse_head import SparseHead
from tdro_lightning.models.tokens import Tokens
from tdro_lightning.training.optim import Optimisation
from tdro_lightning.training.tdro import TDROModule
from tests.fixtures.training import NAMES
from tests.nightly import nightly_but

STEPS, WIDTH, VOCABULARY, TEMPERATURE = 50, 6, 300, 0.05
SCALE = WIDTH**-0.25
SPARSITY = Sparsity("flops", queries=0.3, passages=0.2, ramp_steps=7)
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


def bag(seed: int, head: str = "dense") -> Encoder:
    """An encoder that needs several chunks for a batch, and runs all but one of them twice."""
    backbone = Bag(seed)
    tokenizer: Any = SimpleNamespace(tokenizer=SimpleNamespace(all_special_ids=[]))
    sparse = None
    if head != "dense":
        output = nn.Linear(WIDTH, VOCABULARY, bias=False)
        output.weight = backbone.embedding
        tied = SimpleNamespace(weight=backbone.embedding)
        trained = head == "trained"
        sparse = SparseHead(output, None, tied, scale=SCALE, trained=trained, tile=70)  # type: ignore[arg-type]
        backbone.embedding.requires_grad_()
    return Encoder(backbone, tokenizer, "mean", 9, 9, chunk_tokens=100, head=sparse)  # type: ignore[arg-type]


def texts_of(tokens: Tokens) -> list[np.ndarray]:
    return np.split(tokens.ids.numpy(), np.cumsum(tokens.lengths.numpy())[:-1])


# From a gradient of vectors to that of the embeddings.
Pull = Callable[[np.ndarray], np.ndarray]


def dense(table: np.ndarray, texts: list[np.ndarray]) -> tuple[np.ndarray, Pull]:
    """Unit vectors of the mean states."""
    means = np.stack([table[text].mean(0) for text in texts])
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    vectors = means / norms

    def pull(slopes: np.ndarray) -> np.ndarray:
        total = np.zeros_like(table)
        inner = (slopes - vectors * (vectors * slopes).sum(1, keepdims=True)) / norms
        for text, row in zip(texts, inner, strict=True):
            np.add.at(total, text, row / len(text))
        return total

    return vectors, pull


def sparse(table: np.ndarray, texts: list[np.ndarray], trained: bool) -> tuple[np.ndarray, Pull]:
    """log(1 + relu(c z)) of the largest logits z, which are products with the embeddings."""
    logits = [table[text] @ table.T for text in texts]
    largest = np.stack([one.max(0) for one in logits])
    active = np.maximum(SCALE * largest, 0)

    def pull(slopes: np.ndarray) -> np.ndarray:
        total = np.zeros_like(table)
        inner = np.where(active > 0, slopes * SCALE / (1 + active), 0)
        for text, own, row in zip(texts, logits, inner, strict=True):
            tokens = text[own.argmax(0)]  # a token for each term
            np.add.at(total, tokens, row[:, None] * table)
            if trained:
                total += row[:, None] * table[tokens]
        return total

    return np.log1p(active), pull


EMBED: dict[str, Callable[[np.ndarray, list[np.ndarray]], tuple[np.ndarray, Pull]]] = {
    "dense": dense,
    "frozen": lambda table, texts: sparse(table, texts, False),
    "trained": lambda table, texts: sparse(table, texts, True),
}


def losses(table: np.ndarray, batch: Batch, head: str):
    """Eq. 2: losses, softmax, and for both sides vectors and what pulls their gradient back."""
    queries, passages = (EMBED[head](table, texts_of(b)) for b in (batch.queries, batch.passages))
    shaped = passages[0].reshape(len(queries[0]), -1, passages[0].shape[1])
    temperature = TEMPERATURE if head == "dense" else 1
    scores = np.einsum("bd,bnd->bn", queries[0], shaped) / temperature
    softmax = np.exp(scores - scores.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    return -np.log(softmax[:, 0]), softmax / temperature, queries, passages


def gradient(
    table: np.ndarray, batch: Batch, share: np.ndarray, head: str, ramp: float
) -> np.ndarray:
    """Gradient of sum_i share_i loss_i, and of FLOPS of sparse vectors, to the embeddings."""
    _, slope, (queries, pull_queries), (passages, pull_passages) = losses(table, batch, head)
    slope = slope.copy()
    slope[:, 0] -= 1 / (TEMPERATURE if head == "dense" else 1)
    slope *= share[:, None]
    width = queries.shape[1]
    of_queries = np.einsum("bn,bnd->bd", slope, passages.reshape(len(queries), -1, width))
    of_passages = (slope[..., None] * queries[:, None]).reshape(-1, width)
    if head != "dense":
        of_queries = of_queries + 0.3 * ramp * 2 * queries.mean(0) / len(queries)
        of_passages = of_passages + 0.2 * ramp * 2 * passages.mean(0) / len(passages)
    return pull_queries(of_queries) + pull_passages(of_passages)


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
PAIRS = [(name, how, "dense") for name in MEASURES for how in NORMS]
PAIRS += [(name, "clip", head) for name in MEASURES for head in ("frozen", "trained")]
OFTEN = [(*pair, "dense") for pair in zip(MEASURES, [*NORMS, *NORMS], strict=False)]  # each once
OFTEN += [("ratio", "clip", "frozen"), ("ratio", "clip", "trained")]


@pytest.mark.parametrize(("name", "how", "head"), nightly_but(OFTEN, PAIRS))
def test_many_steps_equal_numpy(parts, fit, name: str, how: str, head: str) -> None:
    steps = STEPS if head == "dense" else 10
    rate = 0.1 if how != "none" else 1e-3
    smoothing = 1e-3 if how == "unit" else 0.0
    weights = DomainWeights(NAMES, rate, how, smoothing)  # type: ignore[arg-type]
    module = TDROModule(
        bag(0, head),
        bag(1, head),
        weights,
        Measurement(name),  # type: ignore[arg-type]
        TEMPERATURE if head == "dense" else 1.0,
        OPTIMISATION if head == "dense" else replace(OPTIMISATION, sparsity=SPARSITY),
    )
    tokenizer_owner = parts.encoder(parts.proxy_path)
    data = parts.heterogeneous(tokenizer_owner, batch_size=13, steps=steps)
    fit(module, data, steps=steps)

    table, frozen = (Bag(seed).embedding.detach().numpy().copy() for seed in (0, 1))
    alpha, average = np.full(3, 1 / 3), np.zeros(3)
    first, second = np.zeros_like(table), np.zeros_like(table)
    batches = parts.heterogeneous(tokenizer_owner, batch_size=13, steps=steps).train_dataloader()
    for step, batch in enumerate(batches):
        domain = batch.domain.numpy()
        both = [losses(values, batch, head)[0] for values in (table, frozen)]
        measure = measured(name, *both, domain)
        norm = np.linalg.norm(measure) or 1.0
        scale = {"clip": min(1, 1 / norm), "unit": 1 / norm, "none": 1.0}[how]
        alpha = alpha * np.exp(rate * scale * measure)
        alpha = (1 - smoothing) * alpha / alpha.sum() + smoothing / 3
        average = (average * step + alpha) / (step + 1)
        share = (alpha / np.bincount(domain))[domain]
        grad = gradient(table, batch, share, head, min(1, step / 7) ** 2)
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
