"""What a stage's record names as its inputs."""

import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest

from tdro_lightning.demo.sources import identity
from tdro_lightning.errors import DataError
from tdro_lightning.runs.inputs import describe_inputs
from tdro_lightning.stages import stages
from tests.test_configs import composed


def test_the_harvest_reads_the_standard_library_and_nothing_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed("+experiment=demo/harvest")
    library = Path(sysconfig.get_path("stdlib"))
    expected = {"standard library": {"path": str(library), "sha256": identity(library)}}
    assert describe_inputs(stages()[config.stage], config) == expected
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra/__init__.py").write_text('"""An extra."""\n')
    (tmp_path / "extra-1.0.dist-info").mkdir()
    (tmp_path / "extra-1.0.dist-info/METADATA").write_text("Name: extra\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert describe_inputs(stages()[config.stage], config) == expected


@pytest.mark.parametrize("label", ["model", "encoder", "encoder mine", "encoder teacher"])
@pytest.mark.parametrize("path", ["./nothing", "/nothing/here", "runs/nothing/encoder"])
def test_a_model_folder_that_is_not_there_is_no_hub_name(label: str, path: str) -> None:
    """Nobody is asked for it over the network."""
    stage = replace(stages()["export"], inputs=lambda config: {label: path})
    with pytest.raises(DataError, match=f"{label}: {path}: no such folder; give a model folder"):
        describe_inputs(stage, composed("+experiment=export", "export.encoder=model"))


@pytest.mark.parametrize(
    ("experiment", "key"),
    [
        ("mine_dense", "mine.encoder"),
        ("validate", "validate.encoder"),
        ("export", "export.encoder"),
    ],
)
def test_every_stage_names_its_encoder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, experiment: str, key: str
) -> None:
    monkeypatch.chdir(folder)
    config = composed(f"+experiment={experiment}", "domains.root=rows", f"{key}=./nothing")
    config.domains.only = []
    with pytest.raises(DataError, match="./nothing: no such folder"):
        describe_inputs(stages()[config.stage], config)
