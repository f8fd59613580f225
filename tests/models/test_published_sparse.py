"""Published folders of sparse encoders give the vectors that sentence-transformers reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import (
    MLMTransformer,
    SparseAutoEncoder,
    SpladePooling,
)
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    ModernBertConfig,
    PreTrainedConfig,
)

from tdro_lightning.errors import ConfigError
from tdro_lightning.export.sparse_folder import write_language_model
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseShape
from tests.models.test_sparse_encoder import write_llama
from tests.published import BERT, TEXTS, Family, embed_padded, made_tokenizer

LIMIT = 96
PROMPTS = {"query": "search query: ", "document": "passage: "}
SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SHORT: dict[str, Any] = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
KINDS: dict[str, tuple[str, Any, dict[str, Any]]] = {  # tokenizer, config, and fields of that
    "bert": ("pieces", BertConfig, {**SIZES, "num_attention_heads": 4}),
    "distilbert": ("pieces", DistilBertConfig, SHORT),
    "modernbert": ("bytes", ModernBertConfig, {**SIZES, "num_attention_heads": 4}),
}
MODULES: dict[str, Any] = {  # of version 5.0 to 5.3, and of later ones
    "MLMTransformer": MLMTransformer,
    "Transformer": lambda path: Transformer(path, transformer_task="fill-mask"),
}


def write_language_model_of(kind: str, folder: Path) -> str:
    """A masked language model of random weights, whose logits differ by token."""
    words, made, fields = KINDS[kind]
    tokenizer = made_tokenizer(Family(kind, words, BERT, "mean"))
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": None, "bos_token_id": None}
    config: PreTrainedConfig = made(
        vocab_size=len(tokenizer), max_position_embeddings=128, **ids, **fields
    )
    torch.manual_seed(3)
    model = AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_published(
    kind: str, folder: Path, module: str = "Transformer", activation: Any = "relu", **settings: Any
) -> Path:
    """A folder as sentence-transformers saves it."""
    language_model = MODULES[module](write_language_model_of(kind, folder / "base"))
    modules = [language_model, SpladePooling("max", activation_function=activation)]
    model = SparseEncoder(modules=modules, prompts=PROMPTS, device="cpu", **settings)
    model.save(str(folder / "published"))
    return folder / "published"


def loaded(folder: Path, **settings: Any) -> Encoder:
    given = {"pooling": "mean", "query_tokens": 64, "passage_tokens": LIMIT} | settings
    return load_encoder(str(folder), **given)


def read_by_theirs(folder: Path, dtype: torch.dtype, batch: int = 4) -> list[np.ndarray]:
    """Queries and documents, with the folder's own prompts."""
    model = SparseEncoder(str(folder), device="cpu", model_kwargs={"dtype": dtype})
    model.max_seq_length = 64
    queries: Any = model.encode_query(list(TEXTS), batch_size=batch)
    model.max_seq_length = LIMIT
    documents: Any = model.encode_document(list(TEXTS), batch_size=batch)
    return [queries.to_dense().numpy(), documents.to_dense().numpy()]


def read_by_ours(encoder: Encoder) -> list[np.ndarray]:
    rows = [encoder.embed_queries(TEXTS, None), encoder.embed_passages(TEXTS)]
    return [matrix.toarray() for matrix in rows]


def assert_equal_vectors(encoder: Encoder, folder: Path) -> None:
    """In float64, and in float32 up to what its rounding gives."""
    assert_equal_in(encoder, folder, torch.float32, 1e-5)
    assert_equal_in(encoder.double(), folder, torch.float64, 1e-6)
    encoder.float()  # as it was, since no value is rounded on the way


def assert_equal_in(encoder: Encoder, folder: Path, dtype: torch.dtype, atol: float) -> None:
    """Whatever stands in a batch, and on whichever side it is padded."""
    theirs = read_by_theirs(folder, dtype)
    for ours, read in zip(read_by_ours(encoder), theirs, strict=True):
        np.testing.assert_allclose(ours, read, atol=atol)
    single = [encoder.embed_passages([text]).toarray() for text in TEXTS]
    alone = read_by_theirs(folder, dtype, batch=1)[1]
    np.testing.assert_allclose(np.concatenate(single), alone, atol=atol)
    for made in embed_padded(encoder, TEXTS, LIMIT):
        assert made.dtype == dtype
        np.testing.assert_allclose(made.detach().numpy(), theirs[1], atol=atol)
    assert theirs[1].std(0).max() > 0.02  # texts have different vectors
    assert 0 < (theirs[1] > 0).mean() < 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("module", MODULES)
def test_vectors_equal_theirs(tmp_path: Path, kind: str, module: str) -> None:
    folder = write_published(kind, tmp_path, module)
    encoder = loaded(folder).freeze()
    assert (encoder.templates.query, encoder.templates.passage) == (
        "search query: {text}", "passage: {text}",
    )  # fmt: skip
    assert_equal_vectors(encoder, folder)


def test_a_second_logarithm_is_applied(tmp_path: Path) -> None:
    folder = write_published("bert", tmp_path, activation="log1p_relu")
    encoder = loaded(folder).freeze()
    assert_equal_vectors(encoder, folder)
    (folder / "1_SpladePooling/config.json").write_text("{}")
    for once, twice in zip(read_by_ours(loaded(folder)), read_by_ours(encoder), strict=True):
        np.testing.assert_allclose(np.log1p(once), twice, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_a_trained_one_is_exported_and_read_equal(
    tmp_path: Path, kind: str, activation: str
) -> None:
    """Two steps move every part, the language model's head too; then saved, and read by both."""
    folder = write_published(kind, tmp_path, activation=activation)
    encoder = loaded(folder, sparse=SparseShape(trained=True))
    before = read_by_ours(encoder)[1]
    optimiser = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=1e-2)
    tokens = encoder.tokenizer(TEXTS, LIMIT)
    encoder.train()
    for _ in range(2):
        encoder(tokens).square().mean().backward()
        assert all(p.grad is not None for p in encoder.head.parameters())
        optimiser.step()
        optimiser.zero_grad()
    encoder.eval()
    ours = read_by_ours(encoder)
    assert np.abs(ours[1] - before).max() > 1e-3
    encoder.save(tmp_path / "saved")
    for mine, saved in zip(ours, read_by_ours(loaded(tmp_path / "saved")), strict=True):
        np.testing.assert_array_equal(mine, saved)
    write_language_model(encoder, str(folder), tmp_path / "exported", {"query": None})
    assert_equal_vectors(encoder, tmp_path / "exported")
    (tmp_path / "exported/encoder.json").unlink()  # as it would be published
    for mine, read in zip(ours, read_by_ours(loaded(tmp_path / "exported")), strict=True):
        np.testing.assert_allclose(mine, read, atol=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_exported_decoder_is_read_without_our_description(
    tmp_path: Path, bidirectional: bool
) -> None:
    path = write_llama(tmp_path / "model", tied=False)
    encoder = loaded(
        Path(path), sparse=SparseShape(), bidirectional=bidirectional, pooling="last",
        query_template="ask {text}", passage_template="{text}",
    )  # fmt: skip
    ours = read_by_ours(encoder)
    write_language_model(encoder, path, tmp_path / "exported", {"query": None})
    (tmp_path / "exported/encoder.json").unlink()
    again = loaded(tmp_path / "exported").freeze()
    assert again.causal != bidirectional
    assert_equal_vectors(again, tmp_path / "exported")
    for mine, read in zip(ours, read_by_ours(again), strict=True):
        np.testing.assert_allclose(mine, read, atol=1e-6)


def test_limits_are_upper_ones_and_the_line_says_what_was_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_published("bert", tmp_path, activation="log1p_relu")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 50}))
    with caplog.at_level("INFO"):
        encoder = loaded(folder, query_tokens=16)
    assert (encoder.query_tokens, encoder.passage_tokens) == (16, 50)
    assert (
        "sparse, the largest logits of a masked language model, log1p_relu, query "
        f"'search query: {{text}}', passage 'passage: {{text}}', {encoder.dimensions} terms, "
        "from modules.json"
    ) in caplog.text


POOLED = "1_SpladePooling/config.json"
TASK = "sentence_bert_config.json"
STORED = "config_sentence_transformers.json"
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "the pooling_strategy 'sum'": (POOLED, {"pooling_strategy": "sum"}),
    "the activation_function 'gelu'": (POOLED, {"activation_function": "gelu"}),
    "the similarity 'cosine' of sparse vectors": (STORED, {"similarity_fn_name": "cosine"}),
    "max_active_dims 64": (STORED, {"max_active_dims": 64}),
    "SpladePooling after the transformer_task 'feature-extraction'": (
        TASK, {"transformer_task": "feature-extraction"}
    ),
    "SpladePooling of {'method': 'forward', 'method_output_name': 'logits'} as 'causal_logits'": (
        TASK, {"transformer_task": "text-generation", "module_output_name": None}
    ),
    "the processing_kwargs {}": (TASK, {"transformer_task": "text-generation"}),
    "the processing_kwargs {'text': {'max_length': 9}}": (
        TASK, {"processing_kwargs": {"text": {"max_length": 9}}}
    ),
    "query_length 8": (TASK, {"query_length": 8}),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_applied_is_named(tmp_path: Path, message: str) -> None:
    folder = write_published("bert", tmp_path)
    name, changed = REFUSED[message]
    settings = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(settings | changed))
    with pytest.raises(ConfigError) as raised:
        loaded(folder)
    assert str(raised.value) == (
        f"model.path={folder}: declares {message}, which cannot be applied here"
    )


def with_types(folder: Path, *types: str) -> None:
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"any.{kind}"}
        for i, kind in enumerate(types)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))


ORDERS = {
    "the module 'Router'": ["Router"],
    "the module 'SparseStaticEmbedding'": ["SparseStaticEmbedding"],
    "the module 'SparseAutoEncoder'": ["Transformer", "Pooling", "SparseAutoEncoder"],
    "the module 'MLMTransformer'": ["MLMTransformer", "Pooling"],
    "the module 'Normalize' of a sparse encoder": ["MLMTransformer", "SpladePooling", "Normalize"],
    "the modules in this order: SpladePooling, Transformer": ["SpladePooling", "Transformer"],
}


@pytest.mark.parametrize("message", ORDERS)
def test_modules_that_are_not_here_are_named(tmp_path: Path, message: str) -> None:
    folder = write_published("bert", tmp_path)
    with_types(folder, *ORDERS[message])
    with pytest.raises(ConfigError, match=f"declares {message}, which cannot be applied here"):
        loaded(folder)


def test_a_dense_one_with_a_sparse_autoencoder_is_refused(tmp_path: Path) -> None:
    """As sentence-transformers saves it, under its own module's name."""
    path = write_language_model_of("bert", tmp_path / "base")
    modules = [Transformer(path), Pooling(32, "mean"), SparseAutoEncoder(32, 64, k=8)]
    SparseEncoder(modules=modules, device="cpu").save(str(tmp_path / "csr"))
    with pytest.raises(ConfigError, match="declares the module 'SparseAutoEncoder'"):
        loaded(tmp_path / "csr")


def test_dense_pooling_of_logits_is_refused(tmp_path: Path) -> None:
    path = write_language_model_of("bert", tmp_path / "base")
    modules = [Transformer(path, transformer_task="fill-mask"), Pooling(32, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "odd"))
    with pytest.raises(ConfigError, match="the transformer_task 'fill-mask' before pooling"):
        loaded(tmp_path / "odd")


def test_another_number_of_terms_is_refused(tmp_path: Path) -> None:
    folder = write_published("bert", tmp_path)
    settings = json.loads((folder / POOLED).read_text())
    (folder / POOLED).write_text(json.dumps(settings | {"embedding_dimension": 17}))
    with pytest.raises(ConfigError, match="declares vectors of 17 terms, and its language model"):
        loaded(folder)


def test_a_plain_language_model_is_made_sparse_by_the_configuration_alone(tmp_path: Path) -> None:
    """Theirs is made of the same folder; without the configuration it gives dense vectors."""
    path = Path(write_language_model_of("modernbert", tmp_path / "base"))
    plain = {"query_template": "{text}", "passage_template": "{text}"}
    modules = [Transformer(str(path), transformer_task="fill-mask"), SpladePooling("max")]
    SparseEncoder(modules=modules, device="cpu").save(str(tmp_path / "theirs"))
    assert_equal_vectors(loaded(path, sparse=SparseShape(), **plain).freeze(), tmp_path / "theirs")
    assert not loaded(path, **plain).sparse


def test_an_adapter_of_a_whole_language_model_is_refused(tmp_path: Path) -> None:
    """Its weights name the model with its head, and have no place in the one without."""
    path = write_language_model_of("bert", tmp_path / "base")
    whole = AutoModelForMaskedLM.from_pretrained(path)
    get_peft_model(whole, LoraConfig(r=2, target_modules=["query", "value"])).save_pretrained(
        str(tmp_path / "adapter")
    )
    made_tokenizer(Family("bert", "pieces", BERT, "mean")).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="the adapter does not fit its base model"):
        loaded(tmp_path / "adapter", sparse=SparseShape())
