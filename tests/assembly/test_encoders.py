"""What a run says of its encoders before it uses them."""

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from tdro_lightning.assembly.encoders import configured_encoder, configured_reference
from tdro_lightning.cli import conf_folder
from tdro_lightning.config.schema import Config
from tdro_lightning.errors import ConfigError
from tdro_lightning.models.adapter import Lora
from tdro_lightning.models.templates import Templates
from tdro_lightning.runs.inputs import describe_inputs
from tdro_lightning.stages import check_config, stages
from tests.command import run, run_code
from tests.made_up import TDRO, tiny_model, write_inputs
from tests.malformed.models import loaded, set_in


def evaluation(*overrides: str) -> Config:
    GlobalHydra.instance().clear()
    given = ["+experiment=evaluate", "name=n", "run_dir=r", "benchmark=python_docs", *overrides]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return check_config(compose("config", given))


def test_the_limits_that_hold_are_printed(tmp_path: Path, capfd) -> None:
    tiny_model(tmp_path / "model")
    loaded(tmp_path / "model").save(tmp_path / "encoder")  # pooling last, 16 and 16 tokens
    path = tmp_path / "encoder"
    given = [f"+evaluate.encoders.one={path}", "model.pooling=last", "data.passage_tokens=16"]
    configured_encoder(evaluation(*given, "data.query_tokens=16"), str(path))
    assert "which holds" not in capfd.readouterr().out
    encoder = configured_encoder(evaluation(*given, "data.query_tokens=40"), str(path))
    assert encoder.query_tokens == 16
    said = f"{path}: its folder has query_tokens 16, which holds; not data.query_tokens=40"
    assert said in capfd.readouterr().out


def test_the_base_of_an_adapter_is_an_input_too(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    loaded(tmp_path / "model", Lora()).save(tmp_path / "adapter")
    config = evaluation(f"+evaluate.encoders.one={tmp_path / 'adapter'}")
    config.benchmark = None
    before = describe_inputs(stages()[config.stage], config)
    assert set(before) == {"encoder one", "model of encoder one"}
    tiny_model(tmp_path / "model", seed=1)  # the same shape and tokenizer, other weights
    after = describe_inputs(stages()[config.stage], config)
    assert after["encoder one"] == before["encoder one"]
    assert after["model of encoder one"]["path"] == str(tmp_path / "model")
    assert after["model of encoder one"] != before["model of encoder one"]


def test_a_model_folder_is_refused_before_torch_is_imported(tmp_path: Path, capfd) -> None:
    write_inputs(tmp_path)
    for folder, key in (("model", "_attn_implementation"), ("reference", "transformers_weights")):
        kept = (tmp_path / folder / "config.json").read_text()
        set_in(tmp_path / folder / "config.json", **{key: "canary/kernel"})
        ended = run(capfd, tmp_path, *TDRO)
        assert ended.code == 2
        assert f"error: model.path={folder}: its config.json names" in ended.err
        assert not (tmp_path / "run/run.json").exists()
        (tmp_path / folder / "config.json").write_text(kept)
    set_in(tmp_path / "model/config.json", custom_generate="evil/code")
    code = (
        "import sys, tdro_lightning.cli as m\n"
        f"sys.argv = ['x', *{json.dumps(TDRO)}]\n"
        "try: m.main()\n"
        "except SystemExit as ended:\n"
        "    heavy = {'torch', 'transformers', 'lightning'} & set(sys.modules)\n"
        "    sys.exit(f'{ended.code} {heavy}')\n"
    )
    ended = run_code(tmp_path, code)
    assert "names code of its own" in ended.stderr
    assert "\n2 set()" in ended.stderr, ended.stderr


def test_a_folder_that_the_stage_does_not_read_is_not_looked_at(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    set_in(tmp_path / "model/config.json", custom_generate="evil/code")
    evaluation("+evaluate.encoders.one=other", f"model.path={tmp_path / 'model'}")
    with pytest.raises(ConfigError, match="names code"):
        evaluation(f"+evaluate.encoders.one={tmp_path / 'model'}")


def test_a_reference_that_reads_other_texts_is_refused(tmp_path: Path) -> None:
    """It is given the proxy's tokens, prompts included."""
    model = tiny_model(tmp_path / "model")
    encoders = [loaded(Path(model)) for _ in range(2)]
    encoders[1].templates = Templates(query="query: {text}")
    for encoder, name in zip(encoders, ("same", "other"), strict=True):
        encoder.save(tmp_path / name)
    config = evaluation(f"+evaluate.encoders.one={model}", "model.pooling=last")
    assert configured_reference(config, str(tmp_path / "same"), encoders[0])
    with pytest.raises(ConfigError, match="its template differs from the proxy's"):
        configured_reference(config, str(tmp_path / "other"), encoders[0])
