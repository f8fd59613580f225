"""The shipped catalogues of domains, benchmarks and models against numbers written down here."""

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tdro_lightning.models.shapes import from_architecture
from tdro_lightning.models.templates import template_fault

CONF = Path(__file__).parents[1] / "conf"
CATALOGUES = sorted((CONF / "domains").glob("*.yaml"))
BENCHMARKS = sorted((CONF / "benchmark").glob("*.yaml"))
MODELS = sorted((CONF / "model").glob("*.yaml"))

PAPER_ORDER = [
    "agnews",
    "AllNLI",
    "altlex",
    "amazon_review_2018_1m",
    "cnn_dailymail",
    "codesearchnet",
    "dureader",
    "eli5_question_answer",
    "gooaq_pairs",
    "hotpotqa",
    "medmcqa",
    "miracl",
    "mr_tydi_combined",
    "msmarco",
    "nq",
    "quora_duplicates_triplets",
    "searchQA_top5_snippets",
    "sentence-compression",
    "SimpleWiki",
    "squad_pairs",
    "stackexchange_duplicate_questions_title-body_title-body",
    "t2ranking",
    "trivia",
    "xsum",
    "yahoo_answers_title_answer",
]

BEIR = [
    "arguana",
    "climate-fever",
    "cqadupstack",
    "dbpedia-entity",
    "fever",
    "fiqa",
    "hotpotqa",
    "msmarco",
    "nfcorpus",
    "nq",
    "quora",
    "scidocs",
    "scifact",
    "webis-touche2020",
    "trec-covid",
]


def read(group: str, name: str, *, resolve: bool = True) -> dict[str, Any]:
    # As Hydra composes it: which key reads the environment depends on where it stands.
    config = OmegaConf.create({group: OmegaConf.load(CONF / group / f"{name}.yaml")})[group]
    container = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def test_the_paper_has_25_domains_in_the_released_order() -> None:
    assert list(read("domains", "paper25")["catalogue"]) == PAPER_ORDER


def test_the_paper_sizes_are_those_of_table_2() -> None:
    catalogue = read("domains", "paper25")["catalogue"]
    assert sum(domain["size"] for domain in catalogue.values()) == 11_067_280
    expected = {
        "agnews": 1_157_745,
        "amazon_review_2018_1m": 999_999,
        "miracl": 32_405,
        "stackexchange_duplicate_questions_title-body_title-body": 250_516,
        "yahoo_answers_title_answer": 1_198_018,
    }
    assert {name: catalogue[name]["size"] for name in expected} == expected


def test_the_paper_has_37_training_prompts() -> None:
    catalogue = read("domains", "paper25")["catalogue"]
    counts = {name: len(domain["prompts"]) for name, domain in catalogue.items()}
    assert sum(counts.values()) == 37
    assert max(counts.values()) == 2
    assert catalogue["medmcqa"]["prompts"] == [
        "Given a medical query, retrieve relevant passages that answer the query",
        "Given a medical question, retrieve passages that answer the question",
    ]


@pytest.mark.parametrize(
    ("catalogue", "symmetric"),
    [
        (
            "paper25",
            {
                "AllNLI",
                "SimpleWiki",
                "altlex",
                "quora_duplicates_triplets",
                "stackexchange_duplicate_questions_title-body_title-body",
            },
        ),
        ("tdro_mini", {"altlex", "kor_pairs", "nli_sick", "simplewiki"}),
    ],
)
def test_symmetric_domains(catalogue: str, symmetric: set[str]) -> None:
    domains = read("domains", catalogue)["catalogue"]
    assert {name for name, domain in domains.items() if domain["symmetric"]} == symmetric


def test_the_paper_spans_12_categories_and_4_language_labels() -> None:
    domains = read("domains", "paper25")["catalogue"].values()
    assert {d["language"] for d in domains} == {
        "11 languages",
        "16 languages",
        "Chinese",
        "English",
    }
    assert {d["category"] for d in domains} == {
        "Amazon",
        "Forum Duplicates",
        "Github",
        "Medical",
        "Multilingual Wikipedia",
        "NLI",
        "News",
        "Reddit",
        "Web Collections",
        "Wikipedia Pair",
        "Wikipedia QA",
        "Yahoo",
    }


def test_tdro_mini_has_20_domains_and_52208_rows() -> None:
    catalogue = read("domains", "tdro_mini")["catalogue"]
    assert len(catalogue) == 20
    assert sum(domain["size"] for domain in catalogue.values()) == 52_208


@pytest.mark.parametrize("name", names(CATALOGUES))
def test_every_domain_is_complete(name: str) -> None:
    config = read("domains", name, resolve=False)
    assert list(config) == ["root", "hub", "only", "catalogue"]
    for domain, entry in config["catalogue"].items():
        assert list(entry) == ["file", "language", "category", "size", "symmetric", "prompts"]
        assert entry["file"] == f"{domain}.jsonl.gz"
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", entry["file"]), entry["file"]
        assert entry["size"] is None or entry["size"] > 0
        assert isinstance(entry["symmetric"], bool)
        prompts = entry["prompts"]
        assert prompts, f"{domain} has no prompt"
        assert all(prompt == prompt.strip() != "" for prompt in prompts), domain
        assert len(set(prompts)) == len(prompts), f"{domain} repeats a prompt"


@pytest.mark.parametrize("name", names(BENCHMARKS))
def test_every_set_is_complete(name: str) -> None:
    config = read("benchmark", name, resolve=False)
    assert list(config) == ["root", "layout", "depth", "sets"]
    key = "folder" if config["layout"] == "beir" else "language"
    parts = [(entry[key], entry.get("split")) for entry in config["sets"].values()]
    assert parts
    assert len(set(parts)) == len(parts)
    for entry in config["sets"].values():
        assert isinstance(entry[key], str)
        assert not Path(entry[key]).is_absolute()
        assert ".." not in Path(entry[key]).parts
        assert entry["prompt"] == entry["prompt"].strip() != ""
        if key == "folder" and config["root"] is None:
            assert re.fullmatch(r"[\w-]+/[\w-]+", entry["hub"])
            assert re.fullmatch(r"[0-9a-f]{40}", entry["revision"])


def test_beir_covers_15_benchmarks_with_12_forums() -> None:
    sets = read("benchmark", "beir15")["sets"]
    assert list(dict.fromkeys(name.split("/")[0] for name in sets)) == BEIR
    assert len(sets) == 14 + 12
    assert len({entry["prompt"] for n, entry in sets.items() if n.startswith("cqadupstack/")}) == 1
    assert {n: entry["split"] for n, entry in sets.items() if entry["split"] != "test"} == {
        "msmarco": "dev"
    }
    assert sets["nq"]["prompt"] == (
        "Given a question, retrieve Wikipedia passages that answer the question"
    )


def test_miracl_has_18_languages_and_mkqa_25() -> None:
    miracl, mkqa = read("benchmark", "miracl"), read("benchmark", "mkqa")
    assert (miracl["layout"], mkqa["layout"]) == ("miracl", "mkqa")
    for name, sets in (("miracl", miracl["sets"]), ("mkqa", mkqa["sets"])):
        assert list(sets) == [f"{name}-{entry['language']}" for entry in sets.values()]
        assert {entry["prompt"] for entry in sets.values()} == {
            "Given a question, retrieve Wikipedia passages that answer the question"
        }
    languages = "ar bn de en es fa fi fr hi id ja ko ru sw te th yo zh"
    assert [entry["language"] for entry in miracl["sets"].values()] == languages.split()
    assert {entry["split"] for entry in miracl["sets"].values()} == {"dev"}
    languages = "ar da de es fi fr he hu it ja km ko ms nl no pl pt ru sv th tr vi"
    chinese = ["zh_cn", "zh_hk", "zh_tw"]
    assert [entry["language"] for entry in mkqa["sets"].values()] == [*languages.split(), *chinese]


def test_the_fast_sets_are_four_of_beir() -> None:
    fast, whole = read("benchmark", "beir_fast")["sets"], read("benchmark", "beir15")["sets"]
    assert list(fast) == ["fiqa", "nfcorpus", "scidocs", "scifact"]
    assert all(whole[name] == entry for name, entry in fast.items())


def test_trec_dl_ranks_1000_and_needs_grade_2() -> None:
    benchmark = read("benchmark", "trec_dl")
    assert benchmark["depth"] == 1000
    lowest = {name: entry.get("relevant", 1) for name, entry in benchmark["sets"].items()}
    assert lowest == {"msmarco_dev": 1, "trec_dl_2019": 2, "trec_dl_2020": 2}


def test_tdro_mini_has_8_evaluation_sets() -> None:
    assert set(read("benchmark", "tdro_mini")["sets"]) == {
        "agnews_heldout",
        "codedoc_heldout",
        "cranfield",
        "drcd_heldout",
        "medquad_heldout",
        "mkqa_xling",
        "scifact",
        "xquad_xling",
    }


@pytest.mark.parametrize(("group", "folder"), [("domains", "train"), ("benchmark", "eval")])
def test_the_environment_says_where_tdro_mini_lies(
    group: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TDRO_MINI", "/somewhere/else")
    assert read(group, "tdro_mini")["root"] == f"/somewhere/else/{folder}"
    monkeypatch.delenv("TDRO_MINI")
    assert read(group, "tdro_mini")["root"] == f"../shared/data/tdro-mini/{folder}"


@pytest.mark.parametrize("name", names(MODELS))
def test_every_model_is_complete(name: str) -> None:
    model = read("model", name, resolve=False)
    own = {"tiny": ["tiny"], "minilm": []}.get(name, ["architecture"])
    keys = [key for key in model if not key.endswith("_template")]
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
