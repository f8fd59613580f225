"""Encoders of sparse vectors: what a language model's logits say, saved and loaded again."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
)

from tdro_lightning.assembly.evaluate import sparse_retriever
from tdro_lightning.errors import ConfigError
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.fingerprint import encoder_fingerprint
from tdro_lightning.models.loading import load_encoder, load_on_shared_base
from tdro_lightning.models.sparse_head import SparseHead, SparseShape
from tests.fixtures.models import bert_tokenizer
from tests.made_up import tiny_model

TEXTS = ["one short text", "a second text that is a good deal longer than the first one", "x"]


def write_llama(folder: Path, tied: bool, seed: int = 5, std: float = 1.0) -> str:
    """A causal language model of random weights, embeddings of a size, with the small tokenizer."""
    tiny_model(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, tie_word_embeddings=tied, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=std)
    torch.nn.init.normal_(model.get_output_embeddings().weight, std=std)
    model.save_pretrained(str(folder))
    return str(folder)


def write_bert(folder: Path) -> str:
    """A masked language model of random weights."""
    tokenizer = bert_tokenizer()
    torch.manual_seed(6)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, initializer_range=0.5,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


KINDS = {
    "tied": (lambda folder: write_llama(folder, True), AutoModelForCausalLM),
    "untied": (lambda folder: write_llama(folder, False), AutoModelForCausalLM),
    "masked": (write_bert, AutoModelForMaskedLM),
}


SHAPE = SparseShape()


def loaded(path: str, shape: SparseShape | None = SHAPE, **settings: Any) -> Encoder:
    limits = {"query_tokens": 24, "passage_tokens": 24, "passage_template": "{text}"}
    return load_encoder(path, pooling="last", sparse=shape, **(limits | settings))


def by_hand(encoder: Encoder, path: str, kind: Any, scale: float, special: bool) -> np.ndarray:
    """Each text run alone by the language model."""
    model, made = kind.from_pretrained(path).eval(), []
    for text in TEXTS:
        ids = encoder.tokenizer([text], 24).ids[None]
        with torch.no_grad():
            logits = scale * model(ids).logits[0]
        own = torch.isin(ids[0], torch.tensor(encoder.tokenizer.tokenizer.all_special_ids))
        counted = torch.ones_like(own) if special else ~own
        made.append(torch.log(1 + torch.relu(logits[counted].max(0).values)).numpy())
    return np.stack(made)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", ["one", "quarter"])
@pytest.mark.parametrize("pooled", ["all", "no_special"])
def test_vectors_are_what_the_language_model_s_logits_say(
    tmp_path: Path, kind: str, scale: str, pooled: str
) -> None:
    write, auto = KINDS[kind]
    path = write(tmp_path / "model")
    encoder = loaded(path, SparseShape(scale, pooled), chunk_tokens=30)
    expected = by_hand(encoder, path, auto, 0.5 if scale == "quarter" else 1.0, pooled == "all")
    vectors = encoder.embed_passages(TEXTS)
    assert vectors.format == "csr"
    assert vectors.dtype == np.float32
    assert (vectors.data > 0).all()
    np.testing.assert_allclose(vectors.toarray(), expected, atol=5e-6)
    single = np.concatenate([encoder.embed_passages([text]).toarray() for text in TEXTS])
    np.testing.assert_allclose(single, expected, atol=5e-6)
    assert encoder.dimensions == expected.shape[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trained", [False, True], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("adapted", [False, True], ids=["all weights", "adapter"])
def test_a_trained_encoder_is_saved_and_loaded_again(
    tmp_path: Path, kind: str, trained: bool, adapted: bool
) -> None:
    path = KINDS[kind][0](tmp_path / "model")
    lora = Lora(2, 4, 0.0) if adapted else None
    encoder = loaded(path, SparseShape("quarter", "all", trained), lora=lora)
    before = encoder.embed_passages(TEXTS).toarray()
    optimiser = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):  # an adapter's second half is zero at first
        encoder(encoder.tokenizer(TEXTS, 24)).square().mean().backward()
        optimiser.step()
    trained_vectors = encoder.embed_passages(TEXTS).toarray()
    assert np.abs(trained_vectors - before).max() > 1e-4
    if not trained and not encoder.head.tied:
        assert all(p.grad is None for p in encoder.head.parameters())
    encoder.save(tmp_path / "saved")
    again = loaded(str(tmp_path / "saved"), None)
    assert isinstance(again.head, SparseHead)
    np.testing.assert_array_equal(again.embed_passages(TEXTS).toarray(), trained_vectors)
    assert (tmp_path / "saved/head.safetensors").exists() == (
        bool(encoder.head.state_dict()) and (trained or not adapted)
    )


def test_a_reference_shares_the_proxy_s_base_and_frozen_head(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model", tied=False)
    lora = Lora(2, 4, 0.0)
    for name, trained in (("frozen", False), ("trained", True)):
        loaded(path, SparseShape(trained=trained), lora=lora).save(tmp_path / name)
    proxy = loaded(path, lora=lora)
    reference = load_on_shared_base(proxy, str(tmp_path / "frozen"))
    assert reference is not None
    assert reference.head is proxy.head
    alone = loaded(str(tmp_path / "frozen"), None)
    np.testing.assert_array_equal(
        reference.embed_passages(TEXTS).toarray(), alone.embed_passages(TEXTS).toarray()
    )
    assert load_on_shared_base(proxy, str(tmp_path / "trained")) is None, "it has a head of its own"
    dense = loaded(path, None, lora=lora)
    assert load_on_shared_base(dense, str(tmp_path / "frozen")) is None


def test_a_reference_of_another_scale_does_not_take_the_proxy_s_head(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model", tied=True)
    lora = Lora(2, 4, 0.0)
    proxy = loaded(path, lora=lora)
    for name, shape in (("c", SparseShape("quarter")), ("t", SparseShape(pooled="no_special"))):
        loaded(path, shape, lora=lora).save(tmp_path / name)
        assert load_on_shared_base(proxy, str(tmp_path / name)) is None


def test_an_index_is_never_taken_for_another_encoder_s(tmp_path: Path) -> None:
    """Another scale, other tokens, and other weights of the head alone."""
    path = write_llama(tmp_path / "model", tied=False)
    made = [loaded(path, shape) for shape in (SHAPE, SparseShape("quarter"), SHAPE)]
    made.append(loaded(path, SparseShape(pooled="no_special")))
    made[2].head.output.weight.data[3] *= 2
    assert len({encoder_fingerprint(encoder) for encoder in (*made, loaded(path))}) == 4
    for encoder in made:
        alone, together = (
            sparse_retriever(encoder).index(TEXTS, tmp_path / name, "made").documents[:]
            for name in (encoder_fingerprint(encoder)[:8], "kept")
        )
        np.testing.assert_array_equal(alone.toarray(), together.toarray())
        np.testing.assert_array_equal(alone.toarray(), encoder.embed_passages(TEXTS).toarray())


def test_models_without_a_language_model_s_head_are_refused(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "model", tied=False)
    LlamaModel.from_pretrained(path).save_pretrained(path)
    with pytest.raises(ConfigError, match=r"1 weights are missing from it, first lm_head\.weight"):
        loaded(path)
    (tmp_path / "model/modules.json").write_text("[]")
    settings = {"model_type": "vit", "architectures": None}
    (tmp_path / "model/config.json").write_text(json.dumps(settings))
    (tmp_path / "model/modules.json").unlink()
    with pytest.raises(ConfigError, match="model.head=sparse needs a language model, and .* a vit"):
        loaded(path)


def test_a_damaged_description_of_a_head_is_refused(tmp_path: Path) -> None:
    from tdro_lightning.errors import DataError

    path = write_llama(tmp_path / "model", tied=True)
    loaded(path).save(tmp_path / "saved")
    described = json.loads((tmp_path / "saved/encoder.json").read_text())
    described["head"]["scale"] = "half"
    (tmp_path / "saved/encoder.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match="scale='half' must be one of one, quarter"):
        loaded(str(tmp_path / "saved"), None)
