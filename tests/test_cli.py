"""The command before a run begins: help, what is listed, what is answered at once."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tdro_lightning.cli import conf_folder, experiments
from tests.command import assert_one_message, run

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


def test_fine_tuning_takes_one_hard_negative(capfd, tmp_path) -> None:
    ended = run(capfd, tmp_path, "experiment=reference_qwen05b", "--cfg", "job")
    assert ended.code == 0
    assert "negatives: 1\n" in ended.out


def test_an_unknown_experiment_gets_the_nearest_name(capfd, tmp_path) -> None:
    ended = run(capfd, tmp_path, "+experiment=tdro_qwen5b")
    assert ended.code == 2
    assert_one_message(ended, r"no experiment tdro_qwen5b; did you mean tdro_qwen05b\?")


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
        (["+experiment=demo", "stage=plam"], "must be one of import"),
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


def test_the_listed_descriptions_are_the_experiments_own() -> None:
    for name, description in experiments().items():
        file = conf_folder() / "experiment" / f"{name}.yaml"
        assert OmegaConf.load(file).description == description
