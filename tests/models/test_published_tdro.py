"""The published tDRO models: adapters by folder and by name, against transformers and PEFT."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tdro_lightning.errors import ConfigError
from tdro_lightning.export.folder import write_adapter as export_adapter
from tdro_lightning.export.folder import write_merged
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.fingerprint import encoder_fingerprint
from tdro_lightning.models.loading import load_encoder, load_on_shared_base
from tests.made_hub import hub_cache, snapshot
from tests.published import TEXTS
from tests.published_tdro import BASES, vectors, write_adapter, write_base

QUERY, PASSAGE = 64, 96
TASK = "Given a question, retrieve passages that answer it"
WEIGHTS = "adapter_model.safetensors"
EMBEDDINGS = "base_model.model.embed_tokens.weight"


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Base models by name; tests only read them."""
    root = tmp_path_factory.mktemp("bases")
    return {name: write_base(base, root / name) for name, base in BASES.items()}


def loaded(path: Path | str, **settings: Any) -> Encoder:
    given = {"pooling": "last", "query_tokens": QUERY, "passage_tokens": PASSAGE} | settings
    return load_encoder(str(path), **given).eval()


@pytest.mark.parametrize("embeddings", [False, True], ids=["adapter", "embeddings"])
@pytest.mark.parametrize("ends", [True, False], ids=["ends", "bare"])
@pytest.mark.parametrize("name", BASES)
def test_vectors_equal_those_of_the_libraries(
    bases: dict[str, Path], tmp_path: Path, name: str, ends: bool, embeddings: bool
) -> None:
    """Alone and in a batch; whether the tokenizer's own files end texts, and without a pad row."""
    base, model = BASES[name], bases[name]
    folder = write_adapter(base, model, tmp_path / "a", ends=ends, embeddings=embeddings)
    encoder = loaded(folder)
    queries = [f"Instruct: {TASK}\nQuery: {text}" for text in TEXTS]
    for texts, limit, made in (
        (queries, QUERY, encoder.embed_queries(TEXTS, TASK)),
        (TEXTS, PASSAGE, encoder.embed_passages(TEXTS)),
    ):
        for batched in (False, True):
            expected = vectors(base, model, folder, texts, limit, batched=batched)
            np.testing.assert_allclose(made, expected, atol=1e-5)
    alone = np.concatenate([encoder.embed_passages([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, encoder.embed_passages(TEXTS), atol=1e-5)
    assert alone.std(0).max() > 0.01
    assert encoder.causal


def test_a_model_by_name(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapter and base are both read from the hub's cache; embeddings of its own too."""
    cache = hub_cache(tmp_path / "cache", monkeypatch)
    name, theirs = "Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1"
    snapshot(cache, theirs, content(bases[name]), kind="model")
    for embeddings in (False, True):
        folder = write_adapter(
            BASES[name], bases[name], tmp_path / f"{embeddings}", embeddings=embeddings
        )
        expected = loaded(folder).embed_passages(TEXTS)
        settings = json.loads((folder / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = theirs
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        path = f"tdro-llm/s2-tdro-{name}-{'curr' if embeddings else 'top70'}"
        snapshot(cache, path, content(folder), kind="model")
        encoder = loaded(path)
        np.testing.assert_allclose(encoder.embed_passages(TEXTS), expected, atol=1e-6)
        encoder.save(tmp_path / f"saved {embeddings}")
        again = loaded(tmp_path / f"saved {embeddings}")
        np.testing.assert_allclose(again.embed_passages(TEXTS), expected, atol=1e-6)
    with pytest.raises(ConfigError, match="tdro-llm/s2-tdro-nothing: cannot be loaded"):
        loaded("tdro-llm/s2-tdro-nothing")


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_embeddings_of_an_adapter_are_kept(bases: dict[str, Path], tmp_path: Path) -> None:
    """Saved, exported and trained on; and no other encoder on the same base gets them."""
    name = "Llama-3-8B"
    own = write_adapter(BASES[name], bases[name], tmp_path / "own", embeddings=True)
    plain = write_adapter(BASES[name], bases[name], tmp_path / "plain", seed=2)
    encoder, other = loaded(own), loaded(plain)
    expected, untouched = encoder.embed_passages(TEXTS), other.embed_passages(TEXTS)
    assert encoder_fingerprint(encoder) != encoder_fingerprint(other)
    rows = load_file(own / WEIGHTS)[EMBEDDINGS].float()
    embeddings: Any = encoder.backbone.get_input_embeddings()
    torch.testing.assert_close(embeddings.weight.detach(), rows)
    assert not embeddings.weight.requires_grad

    encoder.save(tmp_path / "saved")
    other.save(tmp_path / "saved plain")
    assert EMBEDDINGS in load_file(tmp_path / "saved" / WEIGHTS)
    assert EMBEDDINGS not in load_file(tmp_path / "saved plain" / WEIGHTS)
    assert load_on_shared_base(other, str(tmp_path / "saved")) is None
    assert load_on_shared_base(encoder, str(tmp_path / "saved plain")) is None
    assert load_on_shared_base(other, str(tmp_path / "saved plain")) is not None
    np.testing.assert_array_equal(other.embed_passages(TEXTS), untouched)
    export_adapter(encoder, tmp_path / "exported", {"query": None}, str(bases[name]))
    assert EMBEDDINGS in load_file(tmp_path / "exported" / WEIGHTS)
    write_merged(encoder, tmp_path / "merged", {"query": None})
    for folder in ("saved", "exported", "merged"):
        np.testing.assert_allclose(
            loaded(tmp_path / folder).embed_passages(TEXTS), expected, atol=1e-5
        )


@pytest.mark.parametrize("listed", [False, True], ids=["not listed", "in modules_to_save"])
def test_embeddings_without_a_further_row_are_kept_too(
    bases: dict[str, Path], tmp_path: Path, listed: bool
) -> None:
    """Also where the adapter lists them, as PEFT writes it for `modules_to_save`."""
    name = "Qwen1.5-0.5B"
    folder = write_adapter(BASES[name], bases[name], tmp_path / "a", embeddings=True)
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, EMBEDDINGS: weights[EMBEDDINGS][:-1].contiguous()}, folder / WEIGHTS)
    if listed:
        settings = json.loads((folder / "adapter_config.json").read_text())
        settings["modules_to_save"] = ["embed_tokens"]
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    encoder = loaded(folder)
    expected = vectors(BASES[name], bases[name], folder, TEXTS, PASSAGE, batched=True)
    np.testing.assert_allclose(encoder.embed_passages(TEXTS), expected, atol=1e-5)
    encoder.save(tmp_path / "saved")
    np.testing.assert_allclose(
        loaded(tmp_path / "saved").embed_passages(TEXTS), expected, atol=1e-5
    )


def test_what_cannot_be_read_is_named(bases: dict[str, Path], tmp_path: Path) -> None:
    name = "Qwen1.5-0.5B"
    good = write_adapter(BASES[name], bases[name], tmp_path / "good", embeddings=True)

    def changed(folder: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / folder))

    gone = changed("gone")
    settings = json.loads((gone / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "/somebody/models/Qwen1.5-0.5B"
    (gone / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError) as raised:
        loaded(gone)
    assert str(raised.value) == (
        f"model.path={gone}: its adapter_config.json names the base model "
        "/somebody/models/Qwen1.5-0.5B, which is not there; write its hub name or folder there"
    )
    weights = load_file(good / WEIGHTS)
    for folder, rows, message in (
        ("few", weights[EMBEDDINGS][:20], "the model has embeddings for 0 to 19"),
        ("narrow", weights[EMBEDDINGS][:, :16], "the adapter does not fit its base model"),
    ):
        path = changed(folder)
        save_file({**weights, EMBEDDINGS: rows.contiguous()}, path / WEIGHTS)
        with pytest.raises(ConfigError, match=message):
            loaded(path)
    bare = changed("bare")
    (bare / "tokenizer.json").unlink()
    (bare / "vocab.json").unlink()
    with pytest.raises(ConfigError, match="bare: needs a tokenizer.json"):
        loaded(bare)
