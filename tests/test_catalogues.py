"""The shipped catalogues of domains, benchmarks and models against numbers written down here."""

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

CONF = Path(__file__).parents[1] / "conf"
CATALOGUES = sorted((CONF / "domains").glob("*.yaml"))
BENCHMARKS = sorted((CONF / "benchmark").glob("*.yaml"))

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
