"""The shipped models: complete, of their published shape, and planned without weights."""

import re
from pathlib import Path
from typing import Any

import pytest

from tdro_lightning.config.schema import ModelConfig
from tdro_lightning.models.language_model import sparse_head
from tdro_lightning.models.shapes import from_architecture
from tdro_lightning.models.sparse_head import SparseShape
from tdro_lightning.models.templates import template_fault
from tdro_lightning.planning.model import random_model
from tests.command import run
from tests.nightly import nightly_but
from tests.test_catalogues import CONF, names, read

MODELS = sorted((CONF / "model").glob("*.yaml"))


@pytest.mark.parametrize("name", names(MODELS))
def test_every_model_is_complete(name: str) -> None:
    model = read("model", name, resolve=False)
    own = {"tiny": ["tiny"], "minilm": []}.get(name, ["architecture"])
    assert model.get("head", "sparse") == "sparse"
    keys = [key for key in model if not key.endswith("_template") and key != "head"]
    assert keys == ["path", "pooling", "dtype", "attention", "lora", *own]
    assert model["pooling"] in {"last", "mean", "cls"}
    assert model["dtype"] in {"float32", "bfloat16"}
    assert model["attention"] in {"auto", "flash_attention_2", "sdpa", "eager"}
    assert model["lora"] is None or list(model["lora"]) == ["r", "alpha", "dropout"]


# Parameters without the head: those of the published safetensors files, less `lm_head` where the
# embeddings are not tied.
PAPER_MODELS = {
    "qwen05b": ("Qwen/Qwen1.5-0.5B", 463_987_712),
    "qwen18b": ("Qwen/Qwen1.5-1.8B", 1_836_828_672 - 151_936 * 2048),
    "qwen4b": ("Qwen/Qwen1.5-4B", 3_950_369_280 - 151_936 * 2560),
    "qwen7b": ("Qwen/Qwen1.5-7B", 7_721_324_544 - 151_936 * 4096),
    "mistral7b": ("mistralai/Mistral-7B-v0.1", 7_241_732_096 - 32_000 * 4096),
    "llama8b": ("meta-llama/Meta-Llama-3-8B", 8_030_261_248 - 128_256 * 4096),
}


# Embedding models and bases of 2026, with the parameters of their published files (EmbeddingGemma's
# without its dense layers), less `lm_head` where the embeddings are not tied.
PUBLISHED_MODELS = {
    "arctic_l": ("Snowflake/snowflake-arctic-embed-l-v2.0", 567_754_752),
    "arctic_m": ("Snowflake/snowflake-arctic-embed-m-v2.0", 305_368_320),
    "bge_base_en": ("BAAI/bge-base-en-v1.5", 109_482_240),
    "bge_large_en": ("BAAI/bge-large-en-v1.5", 335_141_888),
    "bge_m3": ("BAAI/bge-m3", 567_754_752),
    "e5_large": ("intfloat/multilingual-e5-large", 559_890_432),
    "e5_large_instruct": ("intfloat/multilingual-e5-large-instruct", 559_890_432),
    "e5_mistral": ("intfloat/e5-mistral-7b-instruct", 7_110_660_096),
    "embeddinggemma": ("google/embeddinggemma-300m", 302_863_104),
    "eurobert_210m": ("EuroBERT/EuroBERT-210m", 211_766_016),
    "eurobert_2b": ("EuroBERT/EuroBERT-2.1B", 2_107_590_912),
    "eurobert_610m": ("EuroBERT/EuroBERT-610m", 607_874_688),
    "granite_311m_r2": ("ibm-granite/granite-embedding-311m-multilingual-r2", 311_664_384),
    "granite_97m_r2": ("ibm-granite/granite-embedding-97m-multilingual-r2", 97_441_152),
    "granite_r2": ("ibm-granite/granite-embedding-english-r2", 149_014_272),
    "granite_small_r2": ("ibm-granite/granite-embedding-small-english-r2", 47_662_464),
    "gte_modernbert": ("Alibaba-NLP/gte-modernbert-base", 149_014_272),
    "harrier_06b": ("microsoft/harrier-oss-v1-0.6b", 596_049_920),
    "harrier_270m": ("microsoft/harrier-oss-v1-270m", 268_098_176),
    "llama32_1b": ("meta-llama/Llama-3.2-1B", 1_235_814_400),
    "llama32_3b": ("meta-llama/Llama-3.2-3B", 3_212_749_824),
    "modernbert_base": ("answerdotai/ModernBERT-base", 149_014_272),
    "modernbert_embed": ("nomic-ai/modernbert-embed-base", 149_014_272),
    "modernbert_large": ("answerdotai/ModernBERT-large", 394_781_696),
    "mpnet": ("sentence-transformers/all-mpnet-base-v2", 109_486_464),
    "mxbai_large": ("mixedbread-ai/mxbai-embed-large-v1", 335_141_888),
    "nomic": ("nomic-ai/nomic-embed-text-v1.5", 136_731_648),
    "qwen3_06b": ("Qwen/Qwen3-0.6B-Base", 596_049_920),
    "qwen3_17b": ("Qwen/Qwen3-1.7B-Base", 1_720_574_976),
    "qwen3_4b": ("Qwen/Qwen3-4B-Base", 4_022_468_096),
    "qwen3_8b": ("Qwen/Qwen3-8B-Base", 7_568_405_504),
    "qwen3_embedding_06b": ("Qwen/Qwen3-Embedding-0.6B", 595_776_512),
    "qwen3_embedding_4b": ("Qwen/Qwen3-Embedding-4B", 4_021_774_336),
    "qwen3_embedding_8b": ("Qwen/Qwen3-Embedding-8B", 7_567_295_488),
    "smollm2_135m": ("HuggingFaceTB/SmolLM2-135M", 134_515_008),
    "smollm2_17b": ("HuggingFaceTB/SmolLM2-1.7B", 1_711_376_384),
    "smollm2_360m": ("HuggingFaceTB/SmolLM2-360M", 361_821_120),
}


@pytest.mark.parametrize("name", PUBLISHED_MODELS)
def test_the_published_models_have_their_shape(name: str) -> None:
    model = read("model", name)
    path, count = PUBLISHED_MODELS[name]
    assert model["path"] == path
    built = from_architecture(model["architecture"], "meta")
    assert sum(p.numel() for p in built.parameters()) == count
    for key in ("query_template", "passage_template"):
        assert template_fault(model.get(key, "{text}"), ("{task}", "{text}")) is None


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_the_models_of_the_paper(name: str) -> None:
    model = read("model", name)
    assert model["path"] == PAPER_MODELS[name][0]
    assert model["pooling"] == "last"
    assert model["dtype"] == ("float32" if name == "qwen05b" else "bfloat16")
    assert model["lora"] == {"r": 8, "alpha": 32, "dropout": 0.1}


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_the_models_have_as_many_parameters_as_published(name: str) -> None:
    architecture = read("model", name)["architecture"]
    built = from_architecture(architecture, "meta")
    count = sum(p.numel() for p in built.parameters())
    assert count == parameters(architecture) == PAPER_MODELS[name][1]


# Parameters of the published files of language models, whose embeddings are their heads or not.
LANGUAGE_MODELS = {
    "qwen05b": 463_987_712,
    "qwen18b": 1_836_828_672,
    "qwen4b": 3_950_369_280,
    "qwen7b": 7_721_324_544,
    "mistral7b": 7_241_732_096,
    "llama8b": 8_030_261_248,
    "llama32_1b": 1_235_814_400,
    "llama32_3b": 3_212_749_824,
    "qwen3_06b": 596_049_920,
    "qwen3_8b": 8_190_735_360,
    "smollm2_135m": 134_515_008,
}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_language_model_has_the_head_that_is_published(name: str) -> None:
    """A plan of sparse vectors counts it."""
    shape = SparseShape()
    made = random_model(ModelConfig(**read("model", name)), "meta", shape)
    assert sum(p.numel() for p in made.parameters()) == LANGUAGE_MODELS[name]
    head = sparse_head(made, shape)
    own = sum(p.numel() for p in head.parameters())
    assert own == (0 if head.tied else made.config.vocab_size * made.config.hidden_size)


def parameters(architecture: dict[str, Any]) -> int:
    """Parameters without a head: embeddings, layers, last norm."""
    hidden, inner = architecture["hidden_size"], architecture["intermediate_size"]
    keys = hidden * architecture["num_key_value_heads"] // architecture["num_attention_heads"]
    biases = hidden + 2 * keys if architecture["model_type"] == "qwen2" else 0
    attention = 2 * hidden * hidden + 2 * hidden * keys + biases
    layer = attention + 3 * hidden * inner + 2 * hidden
    embeddings = architecture["vocab_size"] * hidden
    return embeddings + architecture["num_hidden_layers"] * layer + hidden


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_every_model_of_the_paper_can_train_whole(name: str) -> None:
    assert sorted(names(sorted((CONF / "model/full").glob("*.yaml")))) == sorted(PAPER_MODELS)
    whole = read("model/full", name, resolve=False)
    assert whole == {
        "defaults": [f"/model/{name}@_here_", "_self_"],
        "dtype": "float32",  # an optimiser's steps are lost in bfloat16 weights
        "lora": None,
    }


@pytest.mark.parametrize(
    "name",
    nightly_but(["bge_base_en", "mpnet", "qwen3_embedding_06b"], [*PUBLISHED_MODELS, "smollm2"]),
)
def test_every_published_model_is_planned(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    """From its shape alone: nothing is downloaded."""
    ended = run(capfd, tmp_path, "+experiment=finetune_uniform", f"model={name}", "stage=plan")
    assert ended.code == 0, ended.err
    assert "smallest card" in ended.out
    found = re.search(r"([\d,.]+) M parameters, ([\d,.]+) M of them trained", ended.out)
    adapter = re.search(r"trained \(LoRA\)", ended.out)
    whole, trained = (float(text.replace(",", "")) for text in found.groups())
    count = PUBLISHED_MODELS.get(name, ("", 134_515_008))[1]
    assert whole - (trained if adapter else 0) == pytest.approx(count / 1e6, abs=0.11)
