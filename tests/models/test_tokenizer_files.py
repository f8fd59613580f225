"""Damaged tokenizer files, and what an encoder's folder says of its own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder, load_on_shared_base
from tdro_lightning.models.model_files import DECIDING
from tests.malformed.models import permuted, set_in, token

Load = Callable[..., Encoder]


@pytest.fixture
def folder(folders: dict[str, Path], family: str, tmp_path: Path) -> Path:
    shutil.copytree(folders[family], tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, changed: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    changed(content)
    path.write_text(json.dumps(content))


def test_ids_that_the_model_has_no_embedding_for(folder, family, load: Load) -> None:
    rows = load(family, folder).backbone.config.vocab_size
    for number in (rows, 99999):
        shutil.copy(folder / "tokenizer.json", folder / "kept")
        token(number)(folder)
        with pytest.raises(ConfigError, match=f"json gives '<more>' the id {number}"):
            load(family, folder)
        shutil.move(folder / "kept", folder / "tokenizer.json")
    load(family, folder)


def test_a_special_token_beyond_that_nothing_adds_is_harmless(folder, family, load: Load) -> None:
    plain = load(family, folder)
    token(plain.backbone.config.vocab_size, special=True)(folder)
    texts = ["a dog", "<more> fox"]
    found = load(family, folder).embed_passages(texts)
    np.testing.assert_array_equal(found, plain.embed_passages(texts))


def test_an_eos_beyond_is_refused(folders, tmp_path, load: Load) -> None:
    """It is special, and every text gets it."""
    shutil.copytree(folders["llama"], tmp_path / "model")
    rows = load("llama").backbone.config.vocab_size
    token(rows, special=True)(tmp_path / "model")
    set_in(tmp_path / "model/tokenizer_config.json", eos_token="<more>")
    with pytest.raises(ConfigError, match=f"gives '<more>' the id {rows}, but the model has"):
        load("llama", tmp_path / "model")


@pytest.mark.parametrize("where", ["vocabulary", "added", "tokenizer_config"])
def test_ids_given_twice_or_otherwise(folder: Path, family, load: Load, where: str) -> None:
    if where == "vocabulary":

        def twice(content: dict[str, Any]) -> None:
            vocabulary = content["model"]["vocab"]
            names = list(vocabulary)
            vocabulary[names[40]] = vocabulary[names[41]]

        change(folder / "tokenizer.json", twice)
    elif where == "added":
        token(7)(folder)
    else:
        more = {"content": "<more>", "special": False}
        change(
            folder / "tokenizer_config.json", lambda c: c.update(added_tokens_decoder={"7": more})
        )
    with pytest.raises(ConfigError, match=r"its tokenizer(_config)?\.json gives .* the id"):
        load(family, folder)


def test_merges_that_are_dropped_at_random_are_refused(folders, tmp_path, load: Load) -> None:
    shutil.copytree(folders["llama"], tmp_path / "model")
    change(tmp_path / "model/tokenizer.json", lambda c: c["model"].update(dropout=0.1))
    with pytest.raises(ConfigError, match="drops merges at random"):
        load("llama", tmp_path / "model")


def damages(folder: Path, name: str) -> dict[str, Callable[[], object]]:
    path = folder / name
    return {
        "a byte": lambda: path.write_bytes(path.read_bytes().replace(b"0", b"1", 1)),
        "a blank more": lambda: path.write_bytes(path.read_bytes() + b"\n"),
        "removed": path.unlink,
    }


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("damage", ["a byte", "a blank more", "removed"])
def test_an_encoder_s_files_are_those_it_was_saved_with(
    load: Load, tmp_path: Path, name: str, damage: str
) -> None:
    load("qwen2").save(tmp_path / "encoder")
    load("qwen2", tmp_path / "encoder")
    damages(tmp_path / "encoder", name)[damage]()
    with pytest.raises((DataError, ConfigError), match=name):
        load("qwen2", tmp_path / "encoder")


@pytest.mark.parametrize("name", [*DECIDING[1:2], *DECIDING[4:]])
def test_an_encoder_s_folder_gets_no_further_file(load: Load, tmp_path: Path, name: str) -> None:
    load("qwen2").save(tmp_path / "encoder")
    (tmp_path / "encoder" / name).write_text("{}")
    with pytest.raises((DataError, ConfigError), match=name):
        load("qwen2", tmp_path / "encoder")
    (tmp_path / "encoder" / name).unlink()
    (tmp_path / "encoder" / "README.md").write_text("mine")
    load("qwen2", tmp_path / "encoder")


def test_a_permuted_vocabulary_is_noticed(load: Load, tmp_path: Path) -> None:
    encoder = load("qwen2", lora=Lora())
    encoder.save(tmp_path / "adapter")
    permuted(tmp_path / "adapter")
    with pytest.raises(DataError, match=r"adapter/tokenizer\.json: is not the file"):
        load("qwen2", tmp_path / "adapter")
    with pytest.raises(DataError, match=r"adapter/tokenizer\.json: is not the file"):
        load_on_shared_base(encoder, str(tmp_path / "adapter"))


def test_a_folder_of_an_earlier_version_is_read(load: Load, tmp_path: Path, texts) -> None:
    """It described pooling and limits alone."""
    encoder = load("qwen2")
    encoder.save(tmp_path)
    described = json.loads((tmp_path / "encoder.json").read_text())
    del described["sha256"]
    (tmp_path / "encoder.json").write_text(json.dumps(described))
    again = load("qwen2", tmp_path)
    np.testing.assert_array_equal(again.embed_passages(texts), encoder.embed_passages(texts))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(limit=st.one_of(st.integers(-3, 1), st.floats(), st.text(), st.none(), st.booleans()))
def test_limits_are_numbers_above_1(tmp_path_factory, limit: Any) -> None:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "config.json").write_text("{}")
    for key in ("query_tokens", "passage_tokens"):
        described = {"pooling": "last", "query_tokens": 8, "passage_tokens": 8, key: limit}
        (folder / "encoder.json").write_text(json.dumps(described))
        with pytest.raises(DataError, match=r"encoder\.json"):
            load_encoder(str(folder), pooling="last", query_tokens=8, passage_tokens=8)


TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize("place", ["file", "setting", "several"])
def test_no_chat_template_is_saved(folder: Path, family, load: Load, tmp_path, place) -> None:
    if place == "file":
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    elif place == "setting":
        set_in(folder / "tokenizer_config.json", chat_template=TEMPLATE)
    else:
        several = [{"name": name, "template": TEMPLATE} for name in ("default", "tool_use")]
        set_in(folder / "tokenizer_config.json", chat_template=several)
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates/more.jinja").write_text(TEMPLATE)
    saved = tmp_path / "encoder"
    (saved / "additional_chat_templates").mkdir(parents=True)  # as an earlier version left them
    for name in ("chat_template.jinja", "additional_chat_templates/more.jinja"):
        (saved / name).write_text(TEMPLATE)
    load(family, folder).save(saved)
    assert not list(saved.rglob("*.jinja"))
    for path in saved.rglob("*.json"):
        assert "chat_template" not in path.read_text()
        assert "im_start" not in path.read_text()


def test_sentence_transformers_reads_a_saved_encoder_as_it_is(folders, load, tmp_path, texts):
    from sentence_transformers import SentenceTransformer

    shutil.copytree(folders["qwen2"], tmp_path / "model")
    (tmp_path / "model/chat_template.jinja").write_text(TEMPLATE)
    encoder = load("qwen2", tmp_path / "model", pooling="mean")
    encoder.save(tmp_path / "encoder")
    theirs = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    plain = [text for text in texts if 0 < len(text) < 60]
    found = theirs.encode(plain, batch_size=1, normalize_embeddings=True)
    cosines = (found * encoder.embed_passages(plain)).sum(1)
    assert cosines.min() > 0.9999
