"""A configuration from elsewhere runs nothing, and no secret is written down."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tdro_lightning.config.safety import TARGETS, refuse_code, refuse_secrets, refuse_unsafe_name
from tdro_lightning.errors import ConfigError
from tdro_lightning.secrets import mask_secrets
from tests.command import run

CALLS = (
    "os.system", "torch.load", "numpy.load", "joblib.load", "pandas.read_pickle",
    "pathlib.Path.write_text", "builtins.eval", "subprocess.run", "torch.optim.AdamW",
)  # fmt: skip
# What a stranger's experiment file may try; each would touch the file `canary`.
TOUCH = "{_target_: pathlib.Path.touch, self: {_target_: pathlib.Path, _args_: [canary]}}"
ATTACKS = {
    "a callback of Hydra": f"hydra: {{callbacks: {{x: {TOUCH}}}}}",
    "another launcher": "hydra: {launcher: {_target_: os.system}}",
    "a callback by interpolation": f"x: {TOUCH}\nhydra: {{callbacks: {{x: '${{x}}'}}}}",
    "all callbacks decoded from a text": "hydra: {callbacks: \"${oc.decode:'{x: {}}'}\"}",
    "a log handler": (
        "hydra: {job_logging: {handlers: {x: {(): os.system, command: touch canary}}}}"
    ),
    "a log handler's class": (
        "hydra: {job_logging: {handlers: {x: {class: logging.os.system, command: touch canary}}}}"
    ),
    "a log handler's stream": "hydra: {job_logging: {handlers: {console: {stream: ext://os}}}}",
    "a log handler that comes later": "x: {(): os.system}\nhydra: {job_logging: {root: '${x}'}}",
    "the environment": "hydra: {job: {env_set: {PYTHONPATH: .}}}",
    "a model": f"model: {TOUCH}",
    "deep in a list": f"model: {{architecture: {{x: [1, [{TOUCH}]]}}}}",
    "a partial call": "model: {_partial_: true}",
    "another sweeper": "hydra: {sweeper: {_target_: os.system}}",
}


@pytest.mark.parametrize(
    ("attack", "way"),
    [*((attack, "run") for attack in ATTACKS), ("a callback of Hydra", "sweep")]
    + [("a log handler", "sweep"), ("a model", "sweep")],
)
def test_nothing_is_run(attack: str, way: str, tmp_path: Path, capfd) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    head = "# @package _global_\ndefaults: [validate]\n"
    (tmp_path / "conf/experiment/theirs.yaml").write_text(head + ATTACKS[attack] + "\n")
    names = {"run": ["+experiment=theirs"], "sweep": ["-m", "+experiment=theirs,theirs"]}[way]
    ended = run(capfd, tmp_path, "--config-dir=conf", *names, "run_dir=run")
    assert ended.code == 2, ended.err
    assert re.match(r"error: \S+(: | is not).*\n$", ended.err), ended.err
    assert list(tmp_path.rglob("canary")) == []
    assert not (tmp_path / "run").exists()


def test_a_launcher_s_processes_check_too() -> None:
    """Importing what a job needs puts the check where configurations are composed."""
    code = (
        "import tdro_lightning.config.composition\n"
        "from hydra._internal.config_loader_impl import ConfigLoaderImpl as loader\n"
        "assert loader._load_configuration_impl.__module__ == 'tdro_lightning.config.composition'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "place", ["model", "hydra.launcher.x", "hydra.callbacks.x", "hydra.sweeper"]
)
def test_no_target_is_allowed_but_hydra_s_own(call: str, place: str) -> None:
    for tree in ({"_target_": call}, [{"a": [{"_target_": call}]}], {"_target_": "${x}"}):
        with pytest.raises(ConfigError, match=r"_target_: a configuration names no code"):
            refuse_code(tree, place)
    for key, targets in TARGETS.items():
        for target in targets:
            refuse_code({"_target_": target}, key.removesuffix("._target_"))
            with pytest.raises(ConfigError):
                refuse_code({"_target_": f"{target}.x"}, key.removesuffix("._target_"))


HEX = "0123456789abcdef" * 2 + "01234567"
SECRETS = {
    "api_key": "x", "logger.wandb_api_key": "0123", "hub.token": "abc", "hf_token": "abc",
    "a.password": "abc", "client_secret": "abc", "model.path": "hf_" + "a" * 20,
    "domains.hub": "https://me:pass@host/path", "logger.project": HEX,
    "description": "my api_key=abc", "chain.overrides[0]": "+x.token=abc",
}  # fmt: skip
NO_SECRETS = {
    "pad_token": "<|endoftext|>", "eos_token": "</s>", "chunk_tokens": "5", "query_tokens": "x",
    "num_tokens": "3", "tokenizer": "path", "revision": HEX,
    "model.path": "/data/models/" + HEX, "token": "",
    "domains.hub": "https://host/me@x", "transfer.rule": "top_share", "keys": "a",
    "description": "tokens: 5, a token a step", "seed": 42,
}  # fmt: skip


@pytest.mark.parametrize("key", SECRETS)
def test_secrets_are_refused_without_being_shown(key: str) -> None:
    parent, _, name = key.rpartition(".")
    with pytest.raises(ConfigError) as error:
        refuse_secrets({name: SECRETS[key]}, parent)
    assert str(error.value).startswith(f"{key}: looks like a secret")
    assert len(SECRETS[key]) < 3 or SECRETS[key] not in str(error.value)


@pytest.mark.parametrize("key", NO_SECRETS)
def test_other_keys_and_values_are_not(key: str) -> None:
    parent, _, name = key.rpartition(".")
    refuse_secrets({name: NO_SECRETS[key]}, parent)
    assert mask_secrets(f"{key}={NO_SECRETS[key]}") == f"{key}={NO_SECRETS[key]}"


@pytest.mark.parametrize(
    "given",
    ["+logger.api_key=SESAME123", "model.path=hf_SESAME123aaaaaaaaaaa", "+x.y=[{token: SESAME123}]",
     "domains.hub='https://u:SESAME123@h/d'", "model.path=${oc.env:SECRET_HERE}",
     "+logger.api_key=(SESAME123", "run_dir=hf_SESAME123aaaaaaaaaaa"],
)  # fmt: skip
def test_a_secret_is_written_nowhere(given: str, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.setenv("SECRET_HERE", "hf_SESAME123aaaaaaaaaaa")
    ended = run(capfd, tmp_path, "+experiment=validate", "run_dir=run", given)
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert "SESAME123" not in ended.err + ended.out
    for folder, _, names in os.walk(tmp_path):
        assert "SESAME123" not in folder
        for name in names:
            assert b"SESAME123" not in (Path(folder) / name).read_bytes()


def test_texts_are_masked() -> None:
    text = "at https://me:secret@host with api_key=abc, 'token': 'def' and hf_abcdefghijklmnopqrst"
    assert mask_secrets(text) == "at https://***@host with api_key=***, 'token': '***' and ***"


@pytest.mark.parametrize("name", ["nq", "S2ORC_title-abstract", "a.b", "9", "console", "a" * 80])
def test_names_that_are_safe(name: str) -> None:
    assert refuse_unsafe_name("domains", name) is None


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "/a", "a\\b", "-rf", ".x", "a b", "a\n", "é", "中文", "CON", "nul.txt",
     "com1", "a" * 81, "a\0", "a.", "<b>"],
)  # fmt: skip
def test_names_that_are_not(name: str) -> None:
    found = refuse_unsafe_name("domains", name)
    assert found is not None
    assert found.startswith("domains: the name ")
