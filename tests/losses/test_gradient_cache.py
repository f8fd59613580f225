from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from tdro_lightning.losses.gradient_cache import CachedEmbeddings, seed_generators
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.training.strategies import checkpoint_activations

Load = Callable[..., Encoder]
LORA = Lora(r=2, alpha=4, dropout=0.5)


def loss_of(vectors: Tensor) -> Tensor:
    """Every text against every other one, so that each gradient depends on the whole batch."""
    scores = vectors @ vectors.T / 0.1
    return scores.logsumexp(dim=1).sum() - 2 * scores[0, 1]


def straight(encoder: Encoder, texts: list[str]) -> dict[str, Tensor]:
    """Gradients of one forward and one backward pass over all texts."""
    loss_of(encoder(encoder.tokenizer(texts, 64))).backward()
    return gradients(encoder)


def cached(encoder: Encoder, texts: list[str], seed: tuple[int, ...] = (1,)) -> dict[str, Tensor]:
    cache = CachedEmbeddings(encoder, encoder.tokenizer(texts, 64), seed)
    loss_of(cache.vectors).backward()
    cache.backward()
    return gradients(encoder)


def gradients(encoder: Encoder) -> dict[str, Tensor]:
    named = encoder.named_parameters()
    return {n: p.grad.clone() for n, p in named if p.requires_grad and p.grad is not None}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    assert len(one) > 0
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("chunk_tokens", [1, 40, 100, 10_000])
@pytest.mark.parametrize("kept_tokens", [0, 90, 10_000])
def test_gradients_equal_those_of_one_pass(
    load: Load, family: str, texts: list[str], chunk_tokens: int, kept_tokens: int
) -> None:
    expected = straight(load(family, dtype="float64"), texts)
    encoder = load(family, dtype="float64", chunk_tokens=chunk_tokens, kept_tokens=kept_tokens)
    assert_equal(cached(encoder, texts), expected, 1e-12)


@pytest.mark.parametrize("kept_tokens", [0, 90, 10_000])
def test_equal_texts_run_once_and_their_gradients_are_summed(
    load: Load, texts: list[str], kept_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against one pass over all of them, each run by itself.

    Of a BERT: the norms of decoders compute in float32, so that a sum differs from its parts.
    """
    repeated = [*texts, texts[2], *texts[::-1], texts[2]]
    encoder = load("bert", dtype="float64")
    tokens = replace(encoder.tokenizer(repeated, 64), keys=None)
    loss_of(encoder(tokens)).backward()
    expected = gradients(encoder)
    encoder = load("bert", dtype="float64", chunk_tokens=40, kept_tokens=kept_tokens)
    rows_run: list[int] = []
    embed_rows = encoder.embed_rows
    monkeypatch.setattr(
        encoder, "embed_rows", lambda t, rows: rows_run.extend(rows.tolist()) or embed_rows(t, rows)
    )
    assert_equal(cached(encoder, repeated), expected, 1e-12)
    assert set(rows_run) < set(range(len(texts) + 1))


def test_the_vectors_are_those_of_the_encoder(load: Load, family: str, texts: list[str]) -> None:
    encoder = load(family, dtype="float64", chunk_tokens=100)
    tokens = encoder.tokenizer(texts, 64)
    torch.testing.assert_close(CachedEmbeddings(encoder, tokens, (1,)).vectors, encoder(tokens))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "activation checkpointing"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16"])
def test_dropout_is_replayed(load: Load, texts: list[str], autocast: bool, checkpointing: bool):
    """A chunk that runs twice gives bit for bit the gradient of one that kept its graph."""
    found = []
    for kept_tokens in (10_000, 0):
        torch.manual_seed(5)
        encoder = load("qwen2", lora=LORA, chunk_tokens=60, kept_tokens=kept_tokens).train()
        if checkpointing:
            checkpoint_activations(encoder)
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)  # it starts at zero, which hides dropout
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found.append(cached(encoder, texts))
    assert_equal(*found, 0.0)


def test_another_step_has_other_dropout(load: Load, texts: list[str]) -> None:
    encoder = load("qwen2", lora=LORA, chunk_tokens=60).train()
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    tokens = encoder.tokenizer(texts, 64)
    first, again, other = (CachedEmbeddings(encoder, tokens, (1, s)).vectors for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


def test_full_parameters_get_their_gradient_under_autocast(load: Load, texts: list[str]) -> None:
    """A first pass without gradient must not leave casts behind that have none."""
    found = []
    for kept_tokens in (10_000, 0):
        encoder = load("qwen2", chunk_tokens=60, kept_tokens=kept_tokens).train()
        with torch.autocast("cpu", torch.bfloat16):
            found.append(cached(encoder, texts))
    assert len(found[0]) == len(list(encoder.parameters()))
    assert_equal(*found, 0.0)


def test_activations_are_kept_for_one_chunk_at_a_time(load: Load, texts: list[str]) -> None:
    """What the graph of the first pass holds does not grow with the batch."""

    def held(count: int, kept_tokens: int) -> int:
        encoder = load("qwen2", chunk_tokens=64, kept_tokens=kept_tokens).train()
        sizes: list[int] = []
        with saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            several = [f"{number} {text}" for number in range(count) for text in texts]
            CachedEmbeddings(encoder, encoder.tokenizer(several, 64), (1,))
        return sum(sizes)

    assert held(8, kept_tokens=0) == held(2, kept_tokens=0)
    assert held(8, kept_tokens=10_000) > 3 * held(2, kept_tokens=10_000)


def test_the_same_key_gives_the_same_dropout() -> None:
    dropout, ones = nn.Dropout(0.5), torch.ones(64)
    drawn = []
    for key in ((42, 0, 1), (42, 0, 1), (42, 1, 1), (42, 0), (0, 42, 1)):
        with seed_generators(*key):
            drawn.append(torch.stack([dropout(ones), dropout(ones)]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0][0], drawn[0][1])
    for other in drawn[2:]:
        assert not torch.equal(drawn[0], other)


def test_the_generators_continue_from_where_they_were() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        undisturbed = torch.rand(8)
        torch.manual_seed(11)
        first = torch.rand(4)
        with seed_generators(3):
            torch.rand(100)
        assert torch.equal(torch.cat([first, torch.rand(4)]), undisturbed)


def test_the_generators_continue_after_an_exception_too() -> None:
    now = torch.get_rng_state()

    def draw_and_fail() -> None:
        with seed_generators(1):
            torch.rand(100)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), now)
