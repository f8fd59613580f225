import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2Model

from tdro_lightning.models import encoder as module
from tdro_lightning.models.adapter import AdapterInputs, Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.tokenizer import TextTokenizer

Load = Callable[..., Encoder]


def left_padded(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    moved = [row.roll(-int(kept.sum())) for row, kept in zip(ids, mask, strict=True)]
    return torch.stack(moved), mask.flip(1)


def states_of_one(encoder: Encoder, text: str, max_tokens: int) -> np.ndarray:
    ids = encoder.tokenizer([text], max_tokens).ids[None]
    with torch.no_grad():
        states = encoder.backbone(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return states[0].double().numpy()


def by_hand(encoder: Encoder, texts: list[str], max_tokens: int) -> np.ndarray:
    """Each text alone, pooled and normalised in NumPy float64."""
    vectors = []
    for text in texts:
        states = states_of_one(encoder, text, max_tokens)
        vectors.append(states[-1] if encoder.pooling == "last" else states.mean(0))
    return np.stack([vector / np.linalg.norm(vector) for vector in vectors])


def test_causal(load: Load, family: str) -> None:
    assert load(family).causal is (family != "bert")
    assert load(family, lora=Lora()).causal is (family != "bert")


def test_a_vector_depends_on_its_own_text_only(load: Load, family: str, texts: list[str]) -> None:
    encoder = load(family)
    expected = by_hand(encoder, texts, 64)
    assert np.abs(expected[0] - expected[4]).max() > 0.01
    np.testing.assert_allclose(encoder.embed_passages(texts), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.embed_passages(texts[::-1])[::-1], expected, atol=1e-5)
    np.testing.assert_allclose(encoder.embed_passages(texts[:2]), expected[:2], atol=1e-5)
    for i, text in enumerate(texts):
        np.testing.assert_allclose(encoder.embed_passages([text])[0], expected[i], atol=1e-5)


def test_cut_texts_are_counted(
    load: Load, texts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=module.__name__)
    encoder = load("qwen2")
    encoder.embed_passages(texts)
    whole = [len(ids) for ids in encoder.tokenizer.tokenizer(texts).input_ids]
    cut = sum(length >= 64 for length in whole)
    assert 0 < cut < len(texts)
    (message,) = [r.getMessage() for r in caplog.records if r.name == module.__name__]
    assert message.startswith(f"{cut} of {len(texts)} texts have the 64 tokens allowed")
    caplog.clear()
    encoder.embed_passages([text for text, length in zip(texts, whole, strict=True) if length < 64])
    assert not caplog.records


def test_padding_on_either_side(load: Load, family: str, texts: list[str]) -> None:
    encoder = load(family)
    tokens = encoder.tokenizer(texts, 64)
    ids, mask = tokens.padded(torch.arange(len(texts)))
    with torch.no_grad():
        right, left = encoder.embed(ids, mask), encoder.embed(*left_padded(ids, mask))
    expected = by_hand(encoder, texts, 64)
    np.testing.assert_allclose(right.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(left.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["qwen2", "llama"], indirect=True)
def test_with_and_without_a_mask(load: Load, family: str, attention: str, texts: list[str]) -> None:
    encoder = load(family, attention=attention)
    ids, mask = encoder.tokenizer(texts, 64).padded(torch.arange(len(texts)))
    with torch.no_grad():
        masked = encoder.backbone(ids, attention_mask=mask.long()).last_hidden_state
        free = encoder.backbone(ids, attention_mask=None).last_hidden_state
        vectors = encoder.embed(ids, mask)
    torch.testing.assert_close(free[mask], masked[mask], rtol=0, atol=1e-5)
    last = masked[torch.arange(len(texts)), mask.sum(1) - 1].double()
    expected = last / last.norm(dim=1, keepdim=True)
    torch.testing.assert_close(vectors.double(), expected, rtol=0, atol=1e-5)


def test_a_decoder_configured_to_look_both_ways_gets_its_mask(
    folders: dict[str, Path], texts: list[str]
) -> None:
    config = Qwen2Config.from_pretrained(folders["qwen2"])
    config.is_causal = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        backbone = Qwen2Model(config).eval()
    tokenizer = TextTokenizer.load(str(folders["qwen2"]), "last")
    encoder = Encoder(backbone, tokenizer, "last", 40, 64)
    assert not encoder.causal
    np.testing.assert_allclose(
        encoder.embed_passages(texts), by_hand(encoder, texts, 64), atol=1e-5
    )


@pytest.mark.parametrize("chunk_tokens", [1, 30, 100])
def test_chunk_size_changes_nothing(
    load: Load, family: str, texts: list[str], chunk_tokens: int
) -> None:
    whole, chunked = load(family), load(family, chunk_tokens=chunk_tokens)
    one, many = whole.embed_passages(texts), chunked.embed_passages(texts)
    np.testing.assert_allclose(many, one, rtol=0, atol=1e-6)
    for encoder in (whole, chunked):
        encoder(encoder.tokenizer(texts, 64)).pow(3).sum().backward()
    for (name, p), (_, q) in zip(whole.named_parameters(), chunked.named_parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_unit_vectors_in_float32(load: Load, family: str, texts: list[str]) -> None:
    vectors = load(family).embed_passages(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(float), axis=1), 1, atol=1e-6)


def test_bf16_weights_and_autocast_still_give_float32_units(load: Load, texts: list[str]) -> None:
    full = load("llama")
    half = load("llama", dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    expected = full.embed_passages(texts)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = full(full.tokenizer(texts, 64))
    for vectors in (half.embed_passages(texts), mixed.detach().numpy()):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors.astype(float), axis=1), 1, atol=1e-6)
        assert ((vectors * expected).sum(1) > 0.99).all()
    exact = full.double()
    assert exact(exact.tokenizer(texts, 64)).dtype == torch.float64


def test_autocast_alone_casts_what_enters_an_adapter(
    load: Load, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT's casts to float32 are left out under autocast, and change nothing but rounding."""
    gradients: dict[str, torch.Tensor] = {}
    entered: dict[str, set[torch.dtype]] = {}
    monkeypatch.setattr(AdapterInputs, "adjust", adjust := AdapterInputs.adjust)
    for name in ("float32", "bfloat16", "bfloat16, PEFT's casts"):
        if name.endswith("casts"):
            monkeypatch.setattr(AdapterInputs, "adjust", lambda self, device: None)
        torch.manual_seed(0)
        encoder = load("qwen2", lora=Lora(dropout=0.0), dtype=name.partition(",")[0])
        kinds = entered[name] = set()
        for part, layer in encoder.named_modules():
            if part.endswith("lora_A.default"):
                layer.register_forward_pre_hook(lambda m, given, k=kinds: k.add(given[0].dtype))
            if part.endswith("lora_B.default"):
                torch.nn.init.normal_(layer.weight, std=0.1)
        tokens = encoder.tokenizer(texts, 64)
        with torch.autocast("cpu", torch.bfloat16, enabled=name != "float32"):
            vectors = encoder(tokens)
        (vectors * torch.linspace(-1, 1, vectors.numel()).view_as(vectors)).sum().backward()
        gradients[name] = torch.cat(
            [p.grad.flatten() for p in encoder.parameters() if p.grad is not None]
        )
    assert entered == {
        "float32": {torch.float32},
        "bfloat16": {torch.bfloat16},
        "bfloat16, PEFT's casts": {torch.float32},
    }
    exact = gradients["float32"]
    lean, cast = ((gradients[n] - exact).norm() / exact.norm() for n in list(gradients)[1:])
    assert lean < 0.1
    assert lean < 1.5 * cast
    monkeypatch.setattr(AdapterInputs, "adjust", adjust)
    with torch.no_grad():  # a bfloat16 base and a float32 adapter without autocast
        encoder(tokens)
    assert entered["bfloat16, PEFT's casts"] == {torch.float32}


def test_last_pooling_reads_the_eos(load: Load, sentences: list[str]) -> None:
    encoder = load("qwen2", passage_tokens=8)
    eos = encoder.tokenizer.tokenizer.eos_token_id
    for text in ["", "fox", " ".join(sentences)]:
        assert encoder.tokenizer([text], 8).ids[-1] == eos
        state = states_of_one(encoder, text, 8)[-1]
        vector = encoder.embed_passages([text])[0]
        np.testing.assert_allclose(vector, state / np.linalg.norm(state), atol=1e-6)


def test_queries_and_passages_have_their_own_limits_and_prompt(
    load: Load, sentences: list[str]
) -> None:
    encoder = load("llama", query_tokens=40, passage_tokens=12)
    long = " ".join(sentences)
    queries = [long, "fox", "river at night"]
    found = encoder.embed_queries(queries, "Find the animal")
    written = [f"Instruct: Find the animal\nQuery: {query}" for query in queries]
    np.testing.assert_allclose(found, by_hand(encoder, written, 40), atol=1e-5)
    np.testing.assert_allclose(
        encoder.embed_queries(queries, None), by_hand(encoder, queries, 40), atol=1e-5
    )
    np.testing.assert_allclose(
        encoder.embed_passages(queries), by_hand(encoder, queries, 12), atol=1e-5
    )
    assert np.abs(encoder.embed_queries([long], None) - encoder.embed_passages([long])).max() > 0.01


def test_order_is_kept_over_blocks(
    load: Load, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load("llama")
    expected = encoder.embed_passages(texts)
    monkeypatch.setattr(module, "ENCODE_BLOCK", 3)
    np.testing.assert_allclose(encoder.embed_passages(texts), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_encoding_has_no_dropout_and_restores_the_mode(
    load: Load, texts: list[str], training: bool
) -> None:
    encoder = load("bert")  # with dropout 0.1 throughout
    expected = encoder.embed_passages(texts)
    encoder.train(training)
    np.testing.assert_array_equal(encoder.embed_passages(texts), expected)
    assert encoder.training is training
    assert encoder.backbone.training is training
    dropped = encoder(encoder.tokenizer(texts, 64)).detach().numpy()
    assert np.allclose(dropped, expected, atol=1e-5) is not training


def test_frozen(load: Load, texts: list[str]) -> None:
    encoder = load("bert").train()
    assert encoder.freeze() is encoder
    assert not any(part.training for part in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder(encoder.tokenizer(texts, 64)).requires_grad
