"""The command before a run begins: help, what is listed, what is answered at once."""

import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tdro_lightning import __version__
from tdro_lightning.cli import conf_folder, experiments
from tdro_lightning.config.shipped import KINDS, experiments_of, list_experiments
from tests.command import Ended, assert_one_message, run

ROOT = Path(__file__).parents[1]


def test_without_an_experiment_the_list_is_shown(capfd, tmp_path) -> None:
    ended = run(capfd, tmp_path)
    assert ended.code == 2
    for name, line in experiments().items():
        assert name in ended.err
        assert line in ended.err
    assert list(tmp_path.iterdir()) == []


def test_help_says_what_to_do(capfd, tmp_path) -> None:
    ended = run(capfd, tmp_path, "--help")
    assert ended.code == 0
    assert "+experiment=NAME" in ended.out
    assert "tdro_qwen05b" in ended.out


@pytest.mark.parametrize("form", ["+experiment=tdro_qwen05b", "experiment=tdro_qwen05b"])
def test_both_forms_show_the_paper_s_numbers(capfd, tmp_path, form: str) -> None:
    ended = run(capfd, tmp_path, form, "module.reference=x", "--cfg", "job", "--resolve")
    assert ended.code == 0
    lines = {line.strip() for line in ended.out.splitlines()}
    assert {
        "path: Qwen/Qwen1.5-0.5B",
        "pooling: last",
        "batch_size: 2048",
        "steps: 1000",
        "warmup_steps: 100",
        "query_tokens: 128",
        "passage_tokens: 512",
        "lr: 0.0001",
        "min_lr_ratio: 0.1",
        "weight_decay: 0.1",
        "weights_lr: 0.02",
        "precision: bf16-mixed",
        "temperature: 0.002",
        "r: 8",
        "alpha: 32",
        "dropout: 0.1",
        "negatives: 7",
        "seed: 42",
        "measurement: ratio",
        "name: tdro_qwen05b",
    } <= lines


@pytest.mark.parametrize(
    "arguments",
    [
        ["+experiment=demo/tdro", "--cfg", "job", "trainer.steps=7"],
        ["--cfg=job", "trainer.steps=7", "+experiment=demo/tdro"],
        ["trainer.steps=7", "--cfg", "job", "--config-dir=.", "experiment=demo/tdro"],
    ],
)
def test_options_may_stand_anywhere(capfd, tmp_path, arguments: list[str]) -> None:
    ended = run(capfd, tmp_path, *arguments)
    assert ended.code == 0, ended.err
    assert "  steps: 7\n" in ended.out
    assert "weights_lr: 0.05\n" in ended.out


def test_fine_tuning_takes_one_hard_negative(capfd, tmp_path) -> None:
    ended = run(capfd, tmp_path, "experiment=reference_qwen05b", "--cfg", "job")
    assert ended.code == 0
    assert "negatives: 1\n" in ended.out


def test_an_unknown_experiment_gets_the_nearest_name(capfd, tmp_path) -> None:
    ended = run(capfd, tmp_path, "+experiment=tdro_qwen5b")
    assert ended.code == 2
    assert_one_message(ended, r"no experiment tdro_qwen5b; did you mean tdro_qwen05b\?")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["+experiment=zzzz"], "no experiment zzzz. All of them: "),
        (["+experiment=demo/tdro", "trainer.zzzz=3"], "unknown key trainer.zzzz. Known here: "),
        (["+experiment=demo", "model=zzzz"], "no model/zzzz. There are: "),
        (["+experiment=demo", "--zzzz"], "unknown option --zzzz. Known: "),
    ],
)
def test_what_resembles_nothing_gets_the_list(
    capfd, tmp_path, arguments: list[str], message: str
) -> None:
    ended = run(capfd, tmp_path, *arguments)
    assert ended.code == 2
    assert_one_message(ended, re.escape(message))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "to begin with: python -m tdro_lightning +experiment=demo"),
        (["--help"], "to begin with: python -m tdro_lightning +experiment=demo"),
        (["demo"], "did you mean +experiment=demo?"),
        (["+experimnt=tdro_mini"], "did you mean +experiment=tdro_mini?"),
        (["+experiment=dmo"], "did you mean demo?"),
        (["+experiment=demo/tdro", "trainer.stepz=3"], "did you mean trainer.steps?"),
        (["+experiment=demo", "model=tinny"], "did you mean model=tiny?"),
        (["+experiment=demo", "stage=plam"], "must be one of chain"),
        (
            ["+experiment=tdro_qwen05b", "module.reference=r", "module.measurement=diff"],
            "difference?",
        ),
    ],
)
def test_the_first_answers_take_no_two_seconds(arguments: list[str], said: str, tmp_path) -> None:
    """Processor time, since a test may run on a busy machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, "-m", "tdro_lightning", *arguments],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == (0 if arguments == ["--help"] else 2)
    assert said in ended.stdout + ended.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_the_list_is_sorted_by_kind_and_a_workflow_is_a_chain() -> None:
    sorted_names = [name for kind in KINDS for name in experiments_of(kind)]
    assert sorted(sorted_names) == sorted(experiments())
    for kind in KINDS:
        for name in experiments_of(kind):
            stage = OmegaConf.load(conf_folder() / f"experiment/{name}.yaml").get("stage")
            assert (stage == "chain") == (kind == "workflow"), name
    lines = list_experiments().splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    assert heads == ["recipes:", "workflows:", "tools:"]
    assert [line.split()[0] for line in lines if line.startswith(" ")] == sorted_names


def test_sections_that_are_not_in_use_are_not_shown(capfd, tmp_path) -> None:
    ended = run(capfd, tmp_path, "+experiment=finetune_uniform", "--cfg", "job")
    assert ended.code == 0
    shown = OmegaConf.create(ended.out)
    assert {key for key in shown if shown[key] is None} <= {"chain_dir"}
    assert not {"evaluate", "source", "harvest", "mine", "chain", "workspace"} & set(shown)
    assert {"trainer", "logger", "transfer"} <= set(shown)


def test_the_listed_descriptions_are_the_experiments_own() -> None:
    for name, description in experiments().items():
        file = conf_folder() / "experiment" / f"{name}.yaml"
        assert OmegaConf.load(file).description == description


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stage=evaluate", "+evaluate.encoders.bge-base-v1.5=F"],
         r"'\+evaluate\.encoders=\{bge-base-v1\.5: F\}'"),
        (["+experiment=evaluate", "+evaluate.encoders.bge-base-v1.5=F"],
         r"'\+evaluate\.encoders=\{bge-base-v1\.5: F\}'"),
        (["+experiment=evaluate", "evaluate.encoders={bge-base-v1.5: F}"],
         r"evaluate\.encoders has no bge-base-v1\.5; to add it, write '\+evaluate\."),
        ([f"run_dir=runs/{'a' * 300}"], r"run_dir: the name 'a+'\.\.\. has 300 bytes"),
        ([f"name={'a' * 300}"], r"name: the name 'a+'\.\.\. has 300 bytes"),
        (["module.measurement=diff"], r"cannot be set: it is of module=tdro, not of this one"),
        (["--config-dir=a", "-cd", "b"], r"--config-dir can be given once"),
    ],
)  # fmt: skip
def test_one_line_says_what_to_write(arguments: list[str], said: str, capfd, tmp_path) -> None:
    if arguments[0] != "+experiment=evaluate":
        arguments = ["+experiment=finetune_uniform", *arguments]
    ended = run(capfd, tmp_path, "benchmark=tdro_mini", *arguments)
    assert ended.code == 2
    assert_one_message(ended, said)
    assert len(ended.err.splitlines()) == 1


def one_line(ended: Ended) -> str:
    """What the command said, which is one line."""
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert ended.err.startswith("error: ")
    return ended.err.removeprefix("error: ").strip()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("description", "Français"),
        ("description", "What's it?"),
        ("description", 'She said "yes", twice'),
        ("model.path", "/data/a=b"),
        ("model.path", 'C:\\it\'s "b\\"'),
        ("source.prompts", "Given a question, retrieve its answer"),
    ],
)
def test_a_value_that_must_be_quoted_is_shown_quoted(key, value, capfd, tmp_path) -> None:
    """And what is shown is read as the value, once a shell has taken it."""
    said = one_line(run(capfd, tmp_path, "+experiment=import", f"{key}={value}"))
    assert said.startswith(f"{key}: ")
    shown = said[said.index(f"'{key}=\"") :].partition(", for a list")[0]
    (override,) = shlex.split(shown)
    parsed = OverridesParser.create().parse_override(override)
    assert parsed.value() == value


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a:\n\t- b\n", r"theirs\.yaml:2: not valid YAML \(found character"),
        (b"a: {b: [}\n", r"theirs\.yaml:1: not valid YAML \(expected"),
        (b"a: 1\na: 2\n", r"theirs\.yaml:2: not valid YAML \(found duplicate key a"),
        (b"5\n", "a configuration file must hold keys and values"),
        (b'description: "\xff"\n', "a configuration file is not UTF-8"),
        (b"trainer: {steps: 3}\n", "must begin with the line `# @package _global_`"),
    ],
)
def test_a_broken_experiment_file_is_named(content: bytes, said: str, capfd, tmp_path) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/theirs.yaml").write_bytes(content)
    ended = run(capfd, tmp_path, "--config-dir=conf", "+experiment=theirs", "run_dir=run")
    assert re.search(said, one_line(ended))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hepl"], r"unknown option --hepl; did you mean --help\?"),
        (["--config-dri=x"], r"unknown option --config-dri; did you mean --config-dir\?"),
        (["--config-dir=a", "--config-dir=b"], "--config-dir can be given once"),
        (["--config-dir", "a", "-cd", "b"], "--config-dir can be given once"),
        (["run_dir=" + "a" * 300], "run_dir: the name 'a+'... has 300 bytes"),
        (["run_dir=runs/" + "a" * 300 + "/x"], "run_dir: the name 'a+'... has 300 bytes"),
        (["trainer.steps=1,2"], "trainer.steps: a comma outside of quotes; .* add -m"),
        (["model=null"], "a group cannot be null; write ~model"),
        (["steps"], "steps: is not understood; a setting is written key=value"),
        (["+evaluate.encoders.bge-v1.5=x"], r"evaluate.encoders=\{bge-v1.5: x\}"),
    ],
)
def test_an_argument_that_cannot_be_used_is_refused(arguments, said, capfd, tmp_path) -> None:
    given = ["+experiment=evaluate", "benchmark=beir_fast", *arguments]
    assert re.search(said, one_line(run(capfd, tmp_path, *given)))


def test_a_label_with_a_dot_can_be_written() -> None:
    parsed = OverridesParser.create().parse_override("+evaluate.encoders={bge-v1.5: x}")
    assert parsed.value() == {"bge-v1.5": "x"}


def test_the_version_is_printed(capfd, tmp_path) -> None:
    ended = run(capfd, tmp_path, "--version")
    assert (ended.code, ended.out) == (0, f"tdro_lightning {__version__}\n")


def test_the_handler_of_sigterm_is_put_back(capfd, tmp_path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run(capfd, tmp_path, "+experiment=evaluate").code == 2
    assert signal.getsignal(signal.SIGTERM) is before
