from dataclasses import replace
from pathlib import Path

import pytest

from tdro_lightning.schema import Config
from tdro_lightning.stages.record import is_finished, recorded
from tests.test_configs import composed


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A tDRO stage that has run, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("reference", "run"):
        Path(name).mkdir()
    Path("reference/config.json").write_text("{}")
    config = composed("+experiment=tdro_qwen05b", "module.reference=reference", "domains.hub=h/d")
    with recorded(config, "python -m tdro_lightning ..."):
        pass
    return config


@pytest.mark.parametrize("folder", ["losses", "elsewhere", None])
def test_where_reference_losses_are_kept_changes_no_result(config: Config, folder) -> None:
    assert is_finished(config)
    assert is_finished(replace(config, module=replace(config.module, reference_cache=folder)))


@pytest.mark.parametrize(("key", "value"), [("weights_lr", 0.5), ("measurement", "released")])
def test_any_other_setting_of_the_module_does(config: Config, key: str, value: object) -> None:
    assert not is_finished(replace(config, module=replace(config.module, **{key: value})))


def test_what_changes_speed_only_does_not(config: Config) -> None:
    faster = replace(config.trainer, kept_tokens=9, log_every=7, checkpoint_every=5)
    assert is_finished(replace(config, trainer=faster))
    assert not is_finished(replace(config, trainer=replace(config.trainer, steps=9)))


def test_an_input_that_changed_is_noticed(config: Config) -> None:
    Path("reference/config.json").write_text("[]")
    assert not is_finished(config)
