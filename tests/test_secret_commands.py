"""Secrets given to the real command: the canary is in no file, no name of a file and no output."""

import os
import subprocess
from pathlib import Path

import pytest

from tdro_lightning.runs import trackers
from tests.command import Ended, run
from tests.made_up import CHEAP, TDRO, write_cheap_inputs, write_inputs
from tests.secret_shapes import SHAPES

CANARY = "SESAME"
VALIDATE = "+experiment=validate"
EXAMPLES = ("GitHub, fine-grained", "Slack, bot", "W&B", "user alone", "signed address", "AWS, key")
PLACES = (
    "description='{}'", "logger.project='{}'", "run_dir='runs/{}'", "model.path='/data/{}/model'",
    "domains.catalogue.nq.prompts=['Find it, {}']", "+evaluate={{encoders: {{'{}': x}}}}",
    "hydra.sweep.dir='{}'", "chain.overrides=['description={}']", "--config-dir={}", "{}",
)  # fmt: skip
ENVIRONMENT = {  # experiments that would write a secret of the environment down
    "a description": "description: ${oc.env:HIDDEN}",
    "with a default": "description: ${oc.env:HIDDEN,none}",
    "a part of a text": "logger: {project: 'p-${oc.env:HIDDEN}'}",
    "a prompt": "domains: {catalogue: {nq: {prompts: ['${oc.env:HIDDEN}']}}}",
    "decoded": "description: \"${oc.decode:'${oc.env:HIDDEN}'}\"",
    "created": "description: \"${oc.create:'${oc.env:HIDDEN}'}\"",
    "under a computed name": "chain_dir: env\ndescription: ${oc.${chain_dir}:HIDDEN}",
    "a computed variable": "chain_dir: HIDDEN\ndescription: '${oc.env:${chain_dir}}'",
    "by way of a path": "model: {path: '${oc.env:HIDDEN}'}\ndescription: ${model.path}",
    "by selection": "model: {path: '${oc.env:HIDDEN}'}\ndescription: '${oc.select:model.path}'",
    "Hydra's folder": "hydra: {run: {dir: 'x/${oc.env:HIDDEN}'}}",
    "the run folder": "run_dir: ${oc.env:HIDDEN}",
    "a sweep's folder": "hydra: {sweep: {subdir: '${oc.env:HIDDEN}'}}",
    "swept": "hydra: {sweeper: {params: {description: '${oc.env:HIDDEN},b'}}}",
    "a log": "hydra: {job_logging: {handlers: {file: {filename: '${oc.env:HIDDEN}'}}}}",
    "a step of a chain": "chain: {steps: {a: [demo, 'description=${oc.env:HIDDEN}']}}",
    "all steps of a chain": "chain: {overrides: ['description=${oc.env:HIDDEN}'], steps: {}}",
    "a choice of a group": "defaults: [override /model: '${oc.env:HIDDEN}']",
}


def assert_nowhere(ended: Ended, folder: Path) -> None:
    assert CANARY not in ended.out + ended.err
    for place, _, names in os.walk(folder):
        assert CANARY not in place
        for name in names:
            assert CANARY not in name
            assert CANARY.encode() not in (Path(place) / name).read_bytes(), Path(place) / name


@pytest.mark.parametrize("place", PLACES)
def test_a_shape_is_refused_wherever_it_stands(place: str, tmp_path: Path, capfd) -> None:
    for shape in EXAMPLES:
        if "/{}" in place and shape in ("AWS, key", "user alone", "signed address"):
            continue
        given = place.format(SHAPES[shape])
        ended = run(capfd, tmp_path, VALIDATE, "run_dir=run", given)
        assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
        assert ended.err.startswith("error: ")
        assert_nowhere(ended, tmp_path)


@pytest.mark.parametrize(
    ("attack", "way"),
    [*((attack, "run") for attack in ENVIRONMENT), ("a description", "sweep"), ("swept", "sweep")]
    + [("under a computed name", "sweep"), ("by way of a path", "show"), ("a log", "show")]
    + [("under a computed name", "show")],
)
def test_no_value_of_the_environment_is_written_down(
    attack: str, way: str, tmp_path: Path, capfd, monkeypatch
) -> None:
    monkeypatch.setenv("HIDDEN", f"{CANARY} 123")
    (tmp_path / "conf/experiment").mkdir(parents=True)
    text = ENVIRONMENT[attack]
    head = "# @package _global_\n"
    if text.startswith("defaults"):
        text = text.replace("[", "[validate, ")
    else:
        head += "defaults: [validate]\n"
    (tmp_path / "conf/experiment/theirs.yaml").write_text(head + text + "\n")
    options = {"run": [], "sweep": ["-m"], "show": ["--cfg", "all", "--resolve"]}[way]
    swept = ["seed=1,2"] if way == "sweep" else []
    ended = run(capfd, tmp_path, *options, "--config-dir=conf", "+experiment=theirs", *swept)
    assert ended.code == 2, ended.err
    assert "oc.env" in ended.err
    assert "Traceback" not in ended.err
    assert_nowhere(ended, tmp_path)


def test_a_path_of_the_environment_may_be_read(tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.setenv("RUNS_HERE", f"{tmp_path}/there")
    write_cheap_inputs(tmp_path)
    ended = run(capfd, tmp_path, *CHEAP, "run_dir=${oc.env:RUNS_HERE}/run")
    assert ended.code == 0, ended.err
    assert (tmp_path / "there/run/run.json").is_file()


def test_a_training_run_with_a_tracker_leaves_no_secret(tmp_path: Path, capfd, monkeypatch) -> None:
    """Secrets of the environment, of the checkout's remote, and of an error of the tracker."""
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    folder = write_inputs(tmp_path)
    remote = SHAPES["user alone"]
    commit = ["-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "--allow-empty", "-m", "m"]
    for command in (["init", "-q"], ["remote", "add", "origin", remote], commit):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", CANARY.ljust(40, "0"))
    monkeypatch.setenv("HF_TOKEN", SHAPES["Hugging Face"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{CANARY} of no shape")
    log = trackers.WandbLogger.log_metrics

    def failing(self, metrics, step=None):
        log(self, metrics, step)
        if step == 1:
            raise OSError(f"cannot send to {remote}")

    monkeypatch.setattr(trackers.WandbLogger, "log_metrics", failing)
    ended = run(capfd, folder, *TDRO, "trainer.steps=3", "logger.wandb=offline")
    assert ended.code == 0, ended.err
    assert "W&B accepts no more values (OSError: cannot send to https://***@host" in ended.out
    assert list((folder / "run/wandb").glob("offline-run-*/*.wandb"))
    (folder / ".git/config").unlink()
    assert_nowhere(ended, folder)
