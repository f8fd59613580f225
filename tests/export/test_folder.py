"""The files that older versions of other libraries read."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tdro_lightning.errors import ConfigError
from tdro_lightning.export.folder import (
    _name_rotary_base,
    portable_base,
    prompt_prefixes,
    require_exportable,
    write_merged,
)
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.templates import PAPER, Templates
from tests.made_up import tiny_model


def content(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_the_classic_files(tmp_path: Path, pooling: str) -> None:
    model = tiny_model(tmp_path / "model")
    encoder = load_encoder(model, pooling=pooling, query_tokens=8, passage_tokens=16)
    write_merged(encoder, tmp_path / "out", {"query": "Find it", "none": None})
    modules = json.loads((tmp_path / "out/modules.json").read_text())
    assert [(m["path"], m["type"]) for m in modules] == [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Pooling", "sentence_transformers.models.Pooling"),
        ("2_Normalize", "sentence_transformers.models.Normalize"),
    ]
    settings = content(tmp_path / "out/1_Pooling/config.json")
    mode = {"last": "pooling_mode_lasttoken", "mean": "pooling_mode_mean_tokens"}[pooling]
    assert [key for key, value in settings.items() if value is True] == [mode, "include_prompt"]
    assert settings["word_embedding_dimension"] == 16
    assert content(tmp_path / "out/sentence_bert_config.json")["max_seq_length"] == 16
    prompts = content(tmp_path / "out/config_sentence_transformers.json")["prompts"]
    assert prompts == {"query": "Instruct: Find it\nQuery: ", "none": "", "document": ""}


def test_a_pooling_that_sentence_transformers_has_not_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    encoder = load_encoder(model, pooling="last", query_tokens=8, passage_tokens=16)
    require_exportable(encoder)
    encoder.pooling = "first"
    with pytest.raises(ConfigError, match=r"model\.pooling=first: .* only cls and max and mean"):
        require_exportable(encoder)
    encoder.pooling = "last"
    encoder.templates = Templates(query="{text}?")
    with pytest.raises(ConfigError, match=r"'{text}\?' cannot be exported, .* end with {text}"):
        require_exportable(encoder)


def test_the_tokenizer_keeps_eos_and_reads_special_tokens_as_text(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    encoder = load_encoder(model, pooling="last", query_tokens=8, passage_tokens=16)
    expected = encoder.tokenizer(["red <|endoftext|>"], 16).ids.tolist()
    write_merged(encoder, tmp_path / "out", {"query": None})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(["red <|endoftext|>"], truncation=True).input_ids == [expected]
    assert expected[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in expected[:-1]
    cut = tokenizer(["red " * 50, "red"], padding=True, truncation=True)
    assert len(cut.input_ids[0]) == 16
    assert cut.input_ids[0][-1] == tokenizer.eos_token_id
    assert cut.attention_mask[1][0] == 1  # padded on the right


def test_a_scaled_rotary_base_has_both_names(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    rotary = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}
    path.write_text(json.dumps({"rope_parameters": rotary}))
    _name_rotary_base(path)
    assert content(path)["rope_theta"] == 5e5
    assert content(path)["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}


def test_a_base_is_named_by_the_user_by_the_hub_or_relative(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    folder = tmp_path / "run/export/adapter"
    assert portable_base(str(tmp_path / "model"), folder, None) == "../../../model"
    assert portable_base(str(tmp_path / "model"), folder, "Qwen/Q") == "Qwen/Q"
    assert portable_base("Qwen/Qwen1.5-0.5B", folder, None) == "Qwen/Qwen1.5-0.5B"


def test_prompts_of_documents() -> None:
    assert prompt_prefixes(PAPER, {"query": "Find it"})["document"] == ""
    assert prompt_prefixes(Templates(passage="passage: {text}"), {})["document"] == "passage: "
