import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, Qwen2Config, Qwen2Model

from tdro_lightning.errors import ConfigError
from tdro_lightning.retrieval import encoder as module
from tdro_lightning.retrieval.adapter import Lora
from tdro_lightning.retrieval.encoder import Encoder, chosen_attention, load_encoder
from tdro_lightning.retrieval.tokenizer import TextTokenizer

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


def test_saved_and_loaded_again(load: Load, family: str, texts: list[str], tmp_path: Path) -> None:
    encoder = load(family, query_tokens=10, passage_tokens=20)
    with torch.no_grad():
        for p in encoder.parameters():
            p.mul_(1.05)
    encoder.save(tmp_path)
    described = json.loads((tmp_path / "encoder.json").read_text())
    pooling = "mean" if family == "bert" else "last"
    assert described == {"pooling": pooling, "query_tokens": 10, "passage_tokens": 20}
    # What the folder says of itself goes before the arguments.
    other = "last" if pooling == "mean" else "mean"
    again = load_encoder(str(tmp_path), pooling=other, query_tokens=3, passage_tokens=3).eval()
    assert (again.pooling, again.query_tokens, again.passage_tokens) == (pooling, 10, 20)
    for one, two in (
        (encoder.embed_passages(texts), again.embed_passages(texts)),
        (encoder.embed_queries(texts, "Find it"), again.embed_queries(texts, "Find it")),
    ):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)
    assert all(p.requires_grad for p in again.parameters())


def test_adapter_saved_and_loaded_again(
    load: Load, family: str, texts: list[str], tmp_path: Path, folders: dict[str, Path]
) -> None:
    encoder = load(family, lora=Lora(r=4, alpha=16, dropout=0.1))
    plain = load(family).embed_passages(texts)
    trained = [p for p in encoder.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained:
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(4)) / 10)
    expected = encoder.embed_passages(texts)
    assert np.abs(expected - plain).max() > 0.01
    encoder.save(tmp_path)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert not (tmp_path / "model.safetensors").exists()
    assert size < (folders[family] / "model.safetensors").stat().st_size
    again = load(family, tmp_path)
    np.testing.assert_allclose(again.embed_passages(texts), expected, rtol=0, atol=1e-6)
    counts = [p.numel() for p in again.parameters() if p.requires_grad]
    assert sum(counts) == sum(p.numel() for p in trained)
    with pytest.raises(ConfigError, match=r"is an adapter already.*model\.lora=null"):
        load(family, tmp_path, lora=Lora())


def test_no_pooler_is_left_to_train(load: Load, folders: dict[str, Path]) -> None:
    assert any("pooler" in n for n, _ in AutoModel.from_pretrained(folders["bert"]).named_modules())
    encoder = load("bert").train()
    encoder(encoder.tokenizer(["a dog", "fox"], 8))[:, 0].sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def copied(source: Path, folder: Path, without: str = "") -> Path:
    folder.mkdir()
    for file in source.iterdir():
        if file.name != without:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_missing_weights_are_named(load: Load, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["qwen2"], tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 3
    config["layer_types"] = ["full_attention"] * 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError) as error:
        load("qwen2", folder)
    assert str(error.value) == (
        f"model.path={folder}: 12 weights are missing from it, "
        "first layers.2.input_layernorm.weight"
    )


def test_a_folder_that_is_not_there(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path=.*/nowhere: cannot be loaded \(.+\)"):
        load("qwen2", tmp_path / "nowhere")


def test_a_folder_that_is_no_model(load: Load, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError) as error:
        load("qwen2", tmp_path)
    assert str(error.value) == (
        f"model.path={tmp_path}: not a model folder, it has no config.json or adapter_config.json"
    )


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_folder_without_one_of_its_files(
    load: Load, folders: dict[str, Path], tmp_path: Path, file: str
) -> None:
    with pytest.raises(ConfigError, match=file):
        load("qwen2", copied(folders["qwen2"], tmp_path / "copy", without=file))


def test_flash_attention_needs_its_package(monkeypatch: pytest.MonkeyPatch, load: Load) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    message = r"model\.attention=flash_attention_2 needs .*flash-attn.*; use model\.attention=auto"
    with pytest.raises(ConfigError, match=message):
        load("qwen2", attention="flash_attention_2")


def test_flash_attention_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flash_attn.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="flash_attention_2 needs a CUDA GPU"):
        chosen_attention("flash_attention_2")


def test_attention_without_flash(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [chosen_attention(name) for name in ("auto", "sdpa", "eager")] == [
        "sdpa",
        "sdpa",
        "eager",
    ]
    assert load("qwen2").backbone.config._attn_implementation == "sdpa"
    assert load("qwen2", attention="eager").backbone.config._attn_implementation == "eager"
