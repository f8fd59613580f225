"""Secrets of more than 25 shapes: refused where they come in, masked where they go out."""

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tdro_lightning.config.safety import (
    PATH_KEYS,
    refuse_environment,
    refuse_secret_arguments,
    refuse_secrets,
)
from tdro_lightning.config.schema import MODULES, Config
from tdro_lightning.errors import ConfigError
from tdro_lightning.secrets import SECRETS, mask_output, mask_secrets
from tests.command import run_code
from tests.secret_shapes import NO_SECRETS, NOT_IN_PATHS, SHAPES, A

CONF = Path(__file__).parents[1] / "conf"


def string_keys(kind: Any = Config, place: str = "") -> Iterator[str]:
    """Every key of the schema that holds a text, a list of texts or a table of texts."""
    for field in fields(kind):
        key = f"{place}{field.name}"
        if key == "module":
            for module in MODULES.values():
                yield from string_keys(module, "module.")
        else:
            yield from _strings(get_type_hints(kind)[field.name], key)


def _strings(hint: Any, key: str) -> Iterator[str]:
    if hint is str or hint is Any:
        yield key
    elif is_dataclass(hint):
        yield from string_keys(hint, f"{key}.")
    elif get_origin(hint) is dict:
        yield from _strings(get_args(hint)[1], f"{key}.one")
    elif get_origin(hint) is list:
        yield from _strings(get_args(hint)[0], f"{key}[0]")
    elif isinstance(hint, UnionType):
        for part in get_args(hint):
            yield from _strings(part, key)


KEYS = sorted(set(string_keys()))


def tree(key: str, value: Any) -> Any:
    """A configuration with one value in it."""
    first, _, rest = key.replace("[0]", ".0").partition(".")
    inner = tree(rest, value) if rest else value
    return [inner] if first == "0" else {first: inner}


def assert_refused(key: str, value: str, secret: str) -> None:
    with pytest.raises(ConfigError) as error:
        refuse_secrets(tree(key, value))
    assert str(error.value).startswith(f"{key}: looks like a secret")
    assert secret not in str(error.value)


def test_the_walk_finds_the_keys() -> None:
    assert len(KEYS) > 60
    assert {"description", "model.path", "domains.catalogue.one.prompts[0]", "logger.project"} < {
        *KEYS
    }
    assert {"chain.steps.one[0]", "evaluate.encoders.one", "module.reference"} < {*KEYS}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_refused_in_every_key(shape: str) -> None:
    secret = SHAPES[shape]
    for key in KEYS:
        if shape == "W&B, older" and key.endswith(".revision"):
            continue  # it is a commit there
        assert_refused(key, secret, secret)
        assert_refused(key, f"for {secret} only", secret)
        if shape not in NOT_IN_PATHS:
            assert_refused(key, f"/data/{secret}/model", secret)
    with pytest.raises(ConfigError) as error:  # the key of a table is a text too
        refuse_secrets({"evaluate": {"encoders": {secret: "model"}}})
    assert secret not in str(error.value)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "W&B, older"])
def test_a_shape_is_masked(shape: str) -> None:
    secret = SHAPES[shape]
    around = ("", ""), ("cannot open '", "': no"), ("a\n  ", "\nb"), ('{"x": "', '"}')
    for text in (f"{before}{secret}{after}" for before, after in around):
        assert A[:12] not in mask_secrets(text)
        assert secret not in mask_secrets(text)
    assert mask_secrets(f"before {secret}").startswith("before ")


def test_every_pattern_has_a_shape() -> None:
    assert len(SHAPES) >= 25
    for name, pattern in SECRETS.items():
        assert any(re.search(pattern, secret) for secret in SHAPES.values()), name


@pytest.mark.parametrize("text", NO_SECRETS)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert mask_secrets(text) == text
    refuse_secrets({"model": {"path": text}, "description": text, "prompts": [text]})


def test_the_shipped_configurations_hold_none() -> None:
    paths = sorted(CONF.rglob("*.yaml"))
    assert len(paths) > 60
    for path in paths:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        refuse_secrets(content)
        refuse_environment(content if path.parent == CONF else {path.parent.name: content})


@given(st.text())
def test_masking_takes_any_text(text: str) -> None:
    assert mask_secrets(mask_secrets(text)) == mask_secrets(text)


def test_a_secret_of_the_environment_is_known_by_its_value(monkeypatch) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "correct horse")
    monkeypatch.setenv("SOME_API_KEY", "/run/secrets/path")
    monkeypatch.setenv("OTHER_PASSWORD", "short")
    assert (
        mask_secrets("a correct horse, /run/secrets/path, short")
        == "a ***, /run/secrets/path, short"
    )
    assert_refused("description", "a correct horse", "correct horse")
    for argument in ("+x=correct horse", "--config-dir=correct horse", "correct horse"):
        with pytest.raises(ConfigError, match="looks like a secret") as error:
            refuse_secret_arguments(["+experiment=demo", argument])
        assert "horse" not in str(error.value)
    refuse_secret_arguments(["-m", "+experiment=demo", "model.path=/a/b", "seed=1,2", "~benchmark"])


@pytest.mark.parametrize("key", KEYS)
def test_the_environment_is_read_in_keys_of_paths_only(key: str, monkeypatch) -> None:
    monkeypatch.setenv("ROOT_HERE", "/data/SESAME")
    bare = key.replace("[0]", "")
    allowed = any(fnmatchcase(bare, path) for path in PATH_KEYS)
    texts = ["${oc.env:ROOT_HERE}", "x ${ oc.env : 'ROOT_HERE' } y", "${oc.decode:${oc.env:NOT}}"]
    for text in [*texts, "${oc.env:ROOT_HERE,other}"]:
        if allowed:
            refuse_environment(tree(key, text))
        else:
            with pytest.raises(ConfigError, match=re.escape(f"{key}: `${{oc.env:...}}` is for")):
                refuse_environment(tree(key, text))


def test_the_keys_of_paths_are_keys_of_the_schema() -> None:
    bare = [key.replace("[0]", "") for key in KEYS]
    for path in PATH_KEYS:
        assert path.startswith("hydra.") or any(fnmatchcase(key, path) for key in bare), path


def test_a_path_key_takes_no_secret_of_the_environment(monkeypatch) -> None:
    values = {
        "AWS_SECRET_ACCESS_KEY": "/looks/like/a/path",
        "DB_PASS": "/a",
        "SOMETHING": "SESAME",
        "OTHER": f"/data/{SHAPES['GitHub']}",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match="oc.env") as error:
            refuse_environment({"model": {"path": f"${{oc.env:{name}}}/x"}})
        assert value not in str(error.value)


def test_logs_warnings_and_tracebacks_are_masked(caplog, monkeypatch, capsys) -> None:
    secret = SHAPES["GitHub, fine-grained"]
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    # Without those of commands that ran in this process before, whose output is closed.
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])
    mask_output()
    stream = logging.StreamHandler(sys.stderr)
    other = logging.getLogger("some.library")
    other.addHandler(stream)
    try:
        other.error("token %s in %s", secret, {"a": secret})
        other.error("too few %s %s", secret)
        try:
            raise ValueError(f"at {secret}")
        except ValueError:
            other.exception("failed")
            sys.excepthook(*sys.exc_info())
    finally:
        other.removeHandler(stream)
    shown = warnings.formatwarning(f"see {secret}", UserWarning, "f.py", 1, "")
    printed = capsys.readouterr().err
    assert printed.count("ValueError: at ***") == 2
    assert "token *** in {'a': '***'}" in printed
    assert secret not in printed + shown + caplog.text


def test_a_log_that_cannot_be_written_and_an_end_that_fails_print_no_secret(tmp_path: Path) -> None:
    """Python prints these tracebacks itself, and all exceptions that led there."""
    code = (
        "import io, logging\n"
        "from tdro_lightning.secrets import mask_output\n"
        "mask_output()\n"
        "closed = io.StringIO(); closed.close()\n"
        "log = logging.getLogger('some.library'); log.addHandler(logging.StreamHandler(closed))\n"
        f"secret = '{SHAPES['Slack, bot']}'\n"
        "try:\n    raise ValueError(f'at {secret}')\n"
        "except ValueError:\n    log.exception('failed at %s', secret)\n"
        "class Ends:\n    def __del__(self): raise RuntimeError(f'end at {secret}')\n"
        "Ends()\n"
    )
    ended = run_code(tmp_path, code)
    assert ended.returncode == 0
    assert "--- Logging error ---" in ended.stderr
    assert "ValueError: at ***" in ended.stderr
    assert "RuntimeError: end at ***" in ended.stderr
    assert "SESAME" not in ended.stderr + ended.stdout


def test_an_unforeseen_error_is_printed_masked(tmp_path: Path) -> None:
    """In a process of its own, with the interpreter's own end."""
    code = (
        "import threading, tdro_lightning.cli as m\n"
        f"def fail(*a): raise RuntimeError('at {SHAPES['Slack, bot']}')\n"
        "m.accept_any_output = lambda: None\n"
        "m._refused_at_once = lambda a: (m.signal, None)[1]\n"
        "m._start = fail\n"
        "import sys; sys.argv = ['x', '+experiment=demo']\n"
        "t = threading.Thread(target=fail); m.mask_output(); t.start(); t.join()\n"
        "m.main()\n"
    )
    ended = run_code(tmp_path, code)
    assert ended.returncode == 1
    assert ended.stderr.count("RuntimeError: at ***") == 3  # the thread's, the log's, the end's
    assert "SESAME" not in ended.stderr + ended.stdout
