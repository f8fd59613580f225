"""Scores as the JSON files that MTEB writes, one a task."""

from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from tdro_lightning.export.lineage import Scores
from tdro_lightning.files import slug, write_json

TASKS = {  # MTEB's names of datasets on the hub
    "mteb/arguana": "ArguAna",
    "mteb/climate-fever": "ClimateFEVER",
    "mteb/dbpedia": "DBPedia",
    "mteb/fever": "FEVER",
    "mteb/fiqa": "FiQA2018",
    "mteb/hotpotqa": "HotpotQA",
    "mteb/msmarco": "MSMARCO",
    "mteb/nfcorpus": "NFCorpus",
    "mteb/nq": "NQ",
    "mteb/quora": "QuoraRetrieval",
    "mteb/scidocs": "SCIDOCS",
    "mteb/scifact": "SciFact",
    "mteb/touche2020": "Touche2020",
    "mteb/trec-covid": "TRECCOVID",
    "whybe-choi/trec-dl-2020": "TRECDL2020",
}
FORUM = "mteb/cqadupstack-"
MIRACL = "MIRACLRetrieval"  # one task, a subset a language
LANGUAGES = {
    "ar": "ara-Arab",
    "bn": "ben-Beng",
    "de": "deu-Latn",
    "en": "eng-Latn",
    "es": "spa-Latn",
    "fa": "fas-Arab",
    "fi": "fin-Latn",
    "fr": "fra-Latn",
    "hi": "hin-Deva",
    "id": "ind-Latn",
    "ja": "jpn-Jpan",
    "ko": "kor-Kore",
    "ru": "rus-Cyrl",
    "sw": "swa-Latn",
    "te": "tel-Telu",
    "th": "tha-Thai",
    "yo": "yor-Latn",
    "zh": "zho-Hans",
}


def task_name(benchmark: Mapping[str, Any], name: str) -> str:
    """MTEB's name of a benchmark's set, or the set's own where MTEB has none."""
    if benchmark["layout"] == "miracl":
        return MIRACL
    hub = benchmark["sets"][name]["hub"] or name
    if hub.startswith(FORUM):
        return f"CQADupstack{hub.removeprefix(FORUM).capitalize()}Retrieval"
    return TASKS.get(hub, hub.removeprefix("mteb/"))


def prompt_name(benchmark: Mapping[str, Any], name: str) -> str:
    """The name under which MTEB looks for the prompt of a task's queries."""
    return f"{task_name(benchmark, name)}-query"


def write_mteb_results(scores: Scores, folder: Path) -> list[str]:
    """Write `<task>.json` for each task; returns the tasks.

    Sets scored by their answers alone are no task of MTEB's.
    """
    benchmark = scores.benchmark
    local = benchmark["root"] is not None
    results: dict[str, dict[str, Any]] = {}
    for name in (name for name, metrics in scores.sets.items() if "ndcg@10" in metrics):
        entry, task = benchmark["sets"][name], task_name(benchmark, name)
        new = {
            "dataset_revision": "local" if local else entry["revision"] or "main",
            "task_name": task,
            "mteb_version": next((d.version for d in distributions(name="mteb")), None),
            "scores": defaultdict(list),
            "evaluation_time": None,
            "kg_co2_emissions": None,
            "date": scores.record["started"],
        }
        row = _row(benchmark, entry, scores.sets[name])
        results.setdefault(task, new)["scores"][entry["split"]].append(row)
    for task, result in results.items():
        write_json(folder / f"{slug(task)}.json", result)
    return list(results)


def _row(
    benchmark: Mapping[str, Any], entry: Mapping[str, Any], metrics: Mapping[str, float]
) -> dict[str, Any]:
    language, hub = entry["language"], entry["hub"] or ""
    english = "eng-Latn" if hub in TASKS or hub.startswith("mteb/") else None
    code = LANGUAGES.get(language or "", language) or english
    return {
        **{k.replace("@", "_at_"): v for k, v in metrics.items() if k != "queries"},
        "main_score": metrics["ndcg@10"],
        "hf_subset": language if benchmark["layout"] == "miracl" else "default",
        "languages": [code or "und-Zyyy"],  # without any, MTEB leaves the row out
    }
