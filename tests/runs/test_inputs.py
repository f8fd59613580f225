"""What a stage's record names as its inputs."""

import sysconfig
from pathlib import Path

import pytest

from tdro_lightning.demo.sources import identity
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
