import json
from dataclasses import replace
from pathlib import Path

import pytest

from tdro_lightning.config.schema import Config
from tdro_lightning.errors import ResourceError
from tdro_lightning.files import write_checked_json
from tdro_lightning.runs.record import reason_to_run, run_record
from tdro_lightning.stages import stages
from tests.test_configs import composed

EXPERIMENTS = {  # one of each stage that is skipped where nothing has changed
    "harvest": "demo/harvest",
    "mine": "demo/mine",
    "init_model": "demo/model",
    "fit": "demo/reference",
    "evaluate": "demo/baselines",
    "import": "import_tdro",
    "decontaminate": "decontaminate_tdro_mini",
    "validate": "validate",
    "export": "export",
    "mixture": "mixture",
}


def reason(config: Config) -> str | None:
    return reason_to_run(stages()[config.stage], config)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A tDRO stage that has run, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("reference", "run", "rows"):
        Path(name).mkdir()
    Path("reference/config.json").write_text("{}")
    Path("rows/nq.jsonl.gz").write_text("rows")
    config = composed(
        *("+experiment=tdro_qwen05b", "module.reference=reference"),
        *("domains.hub=rows", "domains.only=[nq]"),
    )
    with run_record(stages()[config.stage], config, "python -m tdro_lightning ..."):
        pass
    return config


@pytest.mark.parametrize("folder", ["losses", "elsewhere", None])
def test_where_reference_losses_are_kept_changes_no_result(config: Config, folder) -> None:
    assert reason(config) is None
    assert (
        reason_to_run(
            stages()[config.stage],
            replace(config, module=replace(config.module, reference_cache=folder)),
        )
        is None
    )


@pytest.mark.parametrize(("key", "value"), [("weights_lr", 0.5), ("measurement", "released")])
def test_any_other_setting_of_the_module_does(config: Config, key: str, value: object) -> None:
    before = getattr(config.module, key)
    found = reason_to_run(
        stages()[config.stage], replace(config, module=replace(config.module, **{key: value}))
    )
    assert found == f"module.{key} changed from {before} to {value}"


def test_the_shape_that_a_plan_reads_changes_no_result(config: Config) -> None:
    """So a published shape may be completed in a later version."""
    tied = {**(config.model.architecture or {}), "tie_word_embeddings": False}
    assert config.model.architecture != tied
    assert reason(replace(config, model=replace(config.model, architecture=tied))) is None
    other = replace(config.model, pooling="mean")
    assert reason(replace(config, model=other)) == "model.pooling changed from last to mean"


def test_what_changes_speed_only_does_not(config: Config) -> None:
    faster = replace(config.trainer, kept_tokens=9, log_every=7, checkpoint_every=5, threads=3)
    assert reason(replace(config, trainer=faster)) is None
    longer = replace(config, trainer=replace(config.trainer, steps=9))
    assert reason(longer) == "trainer.steps changed from 1000 to 9"


@pytest.mark.parametrize(
    ("file", "label"), [("reference/config.json", "reference"), ("rows/nq.jsonl.gz", "domain nq")]
)
def test_an_input_that_changed_is_noticed(config: Config, file: str, label: str) -> None:
    """Also a domain of a local folder that is given as a hub dataset."""
    Path(file).write_text("[]")
    assert reason(config) == f"input {label} changed"


def test_a_new_version_runs_nothing_again_unless_the_format_changed(config: Config) -> None:
    path = Path("run/run.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    record["versions"]["tdro-lightning"] = "0.0.1"
    write_checked_json(path, record)
    assert reason(config) is None
    write_checked_json(path, record | {"format": 0})
    assert reason(config) == "its results have format 0, this version writes 1"


def test_a_record_without_checksums_counts_as_finished(config: Config, caplog) -> None:
    """As version 0.1.0 wrote it."""
    path = Path("run/run.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["format"], record["sha256"]
    Path("run/history.csv").touch()
    path.write_text(json.dumps(record | {"outputs": ["history.csv"]}), encoding="utf-8")
    assert reason(config) is None
    assert "its record has no checksums" in caplog.text
    Path("run/history.csv").unlink()
    assert reason(config) == "run/history.csv is missing"


def test_every_stage_says_what_its_results_are_and_depend_on() -> None:
    """A chain asks of each whether it has run, and its results are recorded with checksums."""
    skipped = {n: s for n, s in stages().items() if s.is_run and not s.runs_every_time}
    assert skipped.keys() == EXPERIMENTS.keys()
    for name, stage in skipped.items():
        given = ("export.encoder=model",) if name == "export" else ()
        config = composed(f"+experiment={EXPERIMENTS[name]}", *given)
        assert config.stage == name
        assert stage.settings(config), name
        assert stage.outputs, name


def test_a_run_folder_that_is_removed_during_the_run_is_said(config: Config) -> None:
    with (
        pytest.raises(ResourceError, match="run_dir=run was removed during the run"),
        run_record(stages()[config.stage], config, "command"),
    ):
        Path("run/run.json").unlink()
