"""Masked next-token prediction against a loop in NumPy, transformers' own loss, and the whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from tdro_lightning.data.masking import MaskedBatch
from tdro_lightning.losses.masked_prediction import backward_through_texts, token_losses
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseShape
from tdro_lightning.models.tokens import Tokens
from tests.models.test_sparse_encoder import write_bert, write_llama

KINDS = {
    "tied": (lambda folder: write_llama(folder, True), AutoModelForCausalLM, True),
    "untied": (lambda folder: write_llama(folder, False), AutoModelForCausalLM, True),
    "masked": (write_bert, AutoModelForMaskedLM, None),
}
LENGTHS = (9, 3, 1, 14, 6, 9)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    write, kind, both = KINDS[request.param]
    return write(tmp_path_factory.mktemp("model") / "model"), kind, both


def loaded(model: tuple, **settings) -> Encoder:
    path, _, both = model
    given = {"query_tokens": 24, "passage_tokens": 24, "dtype": "float64", "bidirectional": both}
    return load_encoder(path, pooling="mean", sparse=SparseShape(), **(given | settings))


def made_batch(vocabulary: int) -> MaskedBatch:
    """Texts of random tokens; one has nothing chosen."""
    random = torch.Generator().manual_seed(4)
    ids = torch.randint(5, vocabulary, (sum(LENGTHS),), generator=random)
    rows, columns = [], []
    for row, length in enumerate(LENGTHS):
        chosen = [i for i in range(1, length) if i % 3 != row % 3]
        rows += [row] * len(chosen)
        columns += chosen
    targets = torch.randint(5, vocabulary, (len(rows),), generator=random)
    return MaskedBatch(
        Tokens(ids, torch.tensor(LENGTHS)),
        torch.tensor(rows),
        torch.tensor(columns),
        targets,
        torch.zeros(len(LENGTHS), dtype=torch.long),
        tuple(f"row {i}" for i in range(len(LENGTHS))),
    )


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("budget", [10_000, 20, 1])
def test_loss_and_gradient_are_those_of_transformers(
    model: tuple, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text alone, whose loss is transformers' own over labels; the masked model's shifted."""
    encoder = loaded(model, chunk_tokens=budget).eval()
    batch = made_batch(encoder.head.terms)
    monkeypatch.setattr("tdro_lightning.losses.masked_prediction.LOGITS", 900)
    losses = backward_through_texts(encoder, batch, len(batch.targets), (1, 2))

    path, kind, both = model
    whole = kind.from_pretrained(path, dtype=torch.float64, attn_implementation="sdpa").eval()
    if both:
        whole.config.is_causal = False
    whole.get_output_embeddings().weight.requires_grad_(False)
    table = whole.get_input_embeddings()
    table.weight = torch.nn.Parameter(table.weight.detach().clone())
    if kind is AutoModelForMaskedLM:
        whole.cls.requires_grad_(False)
    total = torch.zeros((), dtype=torch.float64)
    for row, ids in enumerate(batch.passages.ids.split(LENGTHS)):
        own = batch.rows == row
        if not own.any():
            assert losses[row] == 0
            continue
        labels = torch.full_like(ids, -100)
        labels[batch.columns[own]] = batch.targets[own]
        if kind is AutoModelForMaskedLM:  # it does not shift labels
            labels = torch.cat([labels[1:], torch.tensor([-100])])
        loss = whole(input_ids=ids[None], labels=labels[None]).loss * own.sum()
        torch.testing.assert_close(losses[row], loss.detach().double(), rtol=2e-7, atol=0)
        total = total + loss
    (total / len(batch.targets)).backward()
    expected, found = gradients(whole.base_model), gradients(encoder.backbone)
    assert found.keys() == expected.keys()
    for name, value in expected.items():  # transformers' losses are in float32
        torch.testing.assert_close(found[name], value, rtol=2e-5, atol=2e-7)


def test_the_target_is_predicted_from_the_token_before(model: tuple) -> None:
    """By hand in NumPy, from hidden states of the model and its output layer."""
    encoder = loaded(model).eval()
    batch = made_batch(encoder.head.terms)
    losses = backward_through_texts(encoder, batch, 1, (1,))
    weight, bias = encoder.head.parts
    expected = np.zeros(len(batch))
    for row, ids in enumerate(batch.passages.ids.split(LENGTHS)):
        with torch.no_grad():
            states = encoder.backbone(ids[None], torch.ones(1, len(ids))).last_hidden_state
            read = encoder.head.transform(states)[0].numpy()
        logits = read @ weight.detach().numpy().T
        logits += 0 if bias is None else bias.detach().numpy()
        for r, column, target in zip(batch.rows, batch.columns, batch.targets, strict=True):
            if r == row:
                before = logits[int(column) - 1]
                top = before.max()
                expected[row] += np.log(np.exp(before - top).sum()) + top - before[int(target)]
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-12)


def test_chunks_and_tiles_change_nothing(model: tuple) -> None:
    found = []
    for budget in (10_000, 30, 1):
        encoder = loaded(model, chunk_tokens=budget).eval()
        losses = backward_through_texts(encoder, made_batch(encoder.head.terms), 10.0, (1,))
        found.append((losses, gradients(encoder)))
    for losses, own in found[1:]:
        torch.testing.assert_close(losses, found[0][0], rtol=1e-9, atol=1e-12)
        for name, gradient in own.items():
            torch.testing.assert_close(gradient, found[0][1][name], rtol=1e-9, atol=1e-12)
    states = torch.randn(7, 16, dtype=torch.float64)
    whole = token_losses(states, torch.arange(7), encoder.head)
    for logits in (1, 700, 10**9):
        parts = token_losses(states, torch.arange(7), encoder.head, logits)
        torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    assert token_losses(states[:0], torch.arange(0), encoder.head).shape == (0,)


def test_half_precision_is_widened_before_the_softmax(tmp_path: Path) -> None:
    """As transformers widens logits, so that equal ones give equal losses in float32."""
    encoder = loaded((write_llama(tmp_path / "model", True), None, True), dtype="bfloat16")
    states = torch.randn(5, 16, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = token_losses(states, torch.arange(5), encoder.head)
    assert losses.dtype == torch.float32
    logits = (states @ encoder.head.parts[0].T).float()
    expected = logits.double().logsumexp(1) - logits[range(5), range(5)].double()
    torch.testing.assert_close(losses.double(), expected, rtol=1e-6, atol=1e-6)
