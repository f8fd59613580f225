"""Training that is measured by a dev set: its best step is kept, whatever ends it between.

The dev set is planted: its relevant documents are those that the encoder of one step ranks first,
so that nDCG@10 is 1 after that step and nowhere else.
"""

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from tdro_lightning.config.shipped import conf_folder
from tdro_lightning.dro.mixture_file import read_mixture
from tdro_lightning.dro.weights_file import read_weights
from tdro_lightning.files import write_checked_json
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.loading import load_encoder
from tdro_lightning.runs.record import reason_to_run
from tdro_lightning.stages import check_config, stages
from tdro_lightning.training.checkpoint import read_checkpoint
from tests.command import assert_one_message, run
from tests.made_up import TDRO, WORDS, write_inputs
from tests.nightly import nightly_but
from tests.processes import Started

BEST, PATIENCE, EVERY, STEPS = 4, 2, 2, 12
STOPPED = BEST + PATIENCE * EVERY
# A constant learning rate, so that a run of `BEST` steps does what a longer one does until there.
SMALL = (
    *("--config-dir=conf", "domains=made", "model.path=model", "model.lora=null"),
    *("data.batch_size=6", "data.query_tokens=40", "data.passage_tokens=16", "data.workers=0"),
    *("trainer.precision=32-true", "logger.wandb=disabled", "module.temperature=0.05"),
    *("optimiser.lr=0.02", "optimiser.warmup_steps=0", "optimiser.min_lr_ratio=1"),
)
TUNE = ("+experiment=finetune_mixture", *SMALL)
PLANTED = (
    *("validation=beir", "validation.folder=dev", f"validation.every={EVERY}"),
    *(f"validation.patience={PATIENCE}", f"trainer.steps={STEPS}"),
)
ROWS = ("validation=held_out", "validation.every=2", "validation.held_out=20")
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs, a run of exactly `BEST` steps, and a dev set that its encoder alone solves."""
    folder = write_inputs(tmp_path_factory.mktemp("planted"))
    process = Started(folder, *TUNE, f"trainer.steps={BEST}", "run_dir=short")
    assert process.wait() == 0, process.printed
    encoder = load_encoder(
        str(folder / "short/encoder"), pooling="last", query_tokens=40, passage_tokens=16
    )
    draw = np.random.default_rng(5)
    documents, queries = (
        [" ".join(draw.choice(WORDS, size)) for _ in range(count)]
        for count, size in ((40, 6), (30, 3))
    )
    scores = encoder.embed_queries(queries, None) @ encoder.embed_passages(documents).T
    (folder / "dev/qrels").mkdir(parents=True)
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": f"{name[0]}{i}", "text": text}) for i, text in enumerate(texts)]
        (folder / f"dev/{name}.jsonl").write_text("\n".join(lines) + "\n")
    best = [f"q{query}\tc{document}\t1" for query, document in enumerate(scores.argmax(axis=1))]
    header = "query-id\tcorpus-id\tscore"
    (folder / "dev/qrels/dev.tsv").write_text("\n".join([header, *best]) + "\n")
    return folder


@pytest.fixture(scope="module")
def undisturbed(planted: Path) -> Path:
    """The run that stops early, with checkpoints at every step, which two of are left."""
    process = Started(planted, *TUNE, *PLANTED, "trainer.checkpoint_every=1", "run_dir=whole")
    assert process.wait() == 0, process.printed
    (planted / "printed.txt").write_text(process.printed)
    return planted / "whole"


def scores(run_dir: Path) -> dict[str, dict[int, float]]:
    """What was measured, by metric and by steps done."""
    found: dict[str, dict[int, float]] = {}
    with (run_dir / "history.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["metric"].startswith("validation/"):
                by_step = found.setdefault(row["metric"].removeprefix("validation/"), {})
                by_step[int(row["step"]) + 1] = float(row["value"])
    return found


def best_step(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "best_step.json").read_text())


def assert_planted(run_dir: Path, planted: Path) -> None:
    """It kept the planted step, bit for bit, and ended when its patience did."""
    known = best_step(run_dir)
    assert known == {
        "metric": "ndcg@10", "step": BEST, "value": 1.0, "steps": STOPPED, "planned": STEPS,
    }  # fmt: skip
    kept, short = ((d / "encoder" / WEIGHTS).read_bytes() for d in (run_dir, planted / "short"))
    assert kept == short
    record = json.loads((run_dir / "run.json").read_text())
    assert (record["status"], record["best_step"]) == ("finished", known)
    assert "best_step.json" in record["outputs"]


def test_early_stop_keeps_a_planted_step_bit_for_bit(planted: Path, undisturbed: Path) -> None:
    assert_planted(undisturbed, planted)
    measured = scores(undisturbed)["ndcg@10"]
    assert list(measured) == [2, 4, 6, 8]
    assert max(v for step, v in measured.items() if step != BEST) < 1 - 1e-6
    said = (planted / "printed.txt").read_text()
    assert f"stopped after step {STOPPED} of {STEPS}" in said
    assert f"step {BEST} is kept, ndcg@10 1.0000" in said
    usage = json.loads((undisturbed / "data_usage.json").read_text())
    assert sum(domain["drawn"] for domain in usage.values()) == 6 * STOPPED
    kept = sorted(path.name for path in (undisturbed / "checkpoints").iterdir())
    assert kept == [f"step-{step:07d}" for step in (STOPPED - 1, STOPPED)]


CASES = [(step, number) for number in (signal.SIGKILL, signal.SIGTERM) for step in (3, 4, 5, 6, 7)]


@pytest.mark.parametrize(
    ("step", "number"), nightly_but([(4, signal.SIGKILL), (6, signal.SIGTERM)], CASES)
)
def test_a_run_that_ends_between_keeps_the_same_step(
    planted: Path, undisturbed: Path, tmp_path: Path, step: int, number: signal.Signals
) -> None:
    """After the best step was found, or while it waits for a better one."""
    folder = Path(
        shutil.copytree(planted, tmp_path / "work", ignore=shutil.ignore_patterns("whole"))
    )
    given = (*TUNE, *PLANTED, "trainer.checkpoint_every=2", "run_dir=run")
    process = Started(folder, *given)
    history = folder / "run/history.csv"
    process.send_when(number, lambda: history.is_file() and f"\n{step - 1}," in history.read_text())
    assert process.wait() != 0
    assert not (folder / "run/encoder").exists()
    again = Started(folder, *given)
    assert again.wait() == 0, again.printed
    assert_planted(folder / "run", planted)
    assert scores(folder / "run") == scores(undisturbed)


def unfinish(run_dir: Path) -> None:
    """As if it had been killed after its last checkpoint."""
    record = json.loads((run_dir / "run.json").read_text())
    write_checked_json(run_dir / "run.json", record | {"status": "running"})


def test_a_training_that_was_over_takes_no_further_step(
    planted: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Killed behind its last checkpoint, before it had written the encoder."""
    folder = Path(shutil.copytree(planted, tmp_path / "work"))
    unfinish(folder / "whole")
    ended = run(capfd, folder, *TUNE, *PLANTED, "trainer.checkpoint_every=1", "run_dir=whole")
    assert ended.code == 0, ended.err
    assert f"resuming at step {STOPPED} of {STEPS}" in ended.out
    assert_planted(folder / "whole", planted)
    assert scores(folder / "whole") == scores(undisturbed)


def test_other_settings_and_another_dev_set_are_refused_on_a_resume(
    planted: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(planted, tmp_path / "work"))
    given = (*TUNE, *PLANTED, "trainer.checkpoint_every=1", "run_dir=whole", "trainer.resume=must")
    ended = run(capfd, folder, *given, "validation.patience=3")
    assert ended.code == 2
    assert_one_message(ended, r"is of another run than this one")
    assert "validation.patience" in ended.err
    without = tuple(text for text in given if not text.startswith("validation"))
    ended = run(capfd, folder, *without)
    assert ended.code == 2
    assert "validation.every" in ended.err
    shutil.move(folder / "dev", folder / "moved")
    with (folder / "moved/qrels/dev.tsv").open("a") as stream:
        stream.write("q0\tc0\t0\n")
    ended = run(capfd, folder, *given, "validation.folder=moved")
    assert ended.code == 2
    assert "content of validation" in ended.err


def ndcg(encoder: Encoder, dev: Path) -> float:
    """nDCG@10 of queries with one relevant document each, by its rank."""
    texts = {
        name: [json.loads(line)["text"] for line in (dev / f"{name}.jsonl").open()]
        for name in ("queries", "corpus")
    }
    lines = (dev / "qrels/dev.tsv").read_text().splitlines()[1:]
    relevant = [int(line.split("\t")[1][1:]) for line in lines]
    scores = encoder.embed_queries(texts["queries"], None)
    scores = scores @ encoder.embed_passages(texts["corpus"]).T
    own = scores[np.arange(len(relevant)), relevant]
    rank = (scores > own[:, None]).sum(axis=1)
    return float(np.where(rank < 10, 1 / np.log2(rank + 2), 0).mean())


@pytest.mark.nightly  # tests/training/test_kept.py has the two processes by day
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_keep_the_same_step(planted: Path, undisturbed: Path, kind: str) -> None:
    spread = [f"strategy={kind}", "trainer.devices=2", "trainer.checkpoint_every=3"]
    ended = subprocess.run(
        [sys.executable, "-m", "tdro_lightning", *TUNE, *PLANTED, *spread, f"run_dir={kind}"],
        cwd=planted, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    ours, theirs = scores(planted / kind)["ndcg@10"], scores(undisturbed)["ndcg@10"]
    assert ours.keys() == theirs.keys()
    assert list(ours.values()) == pytest.approx(list(theirs.values()), abs=0.02)  # a near tie
    assert (best_step(planted / kind)["step"], best_step(planted / kind)["steps"]) == (4, 8)
    encoder = load_encoder(
        str(planted / kind / "encoder"), pooling="last", query_tokens=40, passage_tokens=16
    )
    assert ndcg(encoder, planted / "dev") == pytest.approx(best_step(planted / kind)["value"])
    state = read_checkpoint(planted / kind / "checkpoints/step-0000008")["validation"]
    kept = {n.removeprefix("encoder.backbone."): v for n, v in state["kept"].items()}
    found = dict(encoder.backbone.named_parameters())
    assert kept.keys() == found.keys()
    assert all((kept[name] == value).all() for name, value in found.items())


def test_weights_are_those_of_the_best_step(
    planted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Last, mean and moving average equal those of a run of so many steps."""
    folder = Path(shutil.copytree(planted, tmp_path / "work"))
    given = (*TDRO, *(text for text in SMALL if text.startswith(("module", "optimiser"))))
    given = (*given, *ROWS, "validation.metric=loss", "optimiser.lr=0.3")
    ended = run(capfd, folder, *given, "trainer.steps=10", "validation.patience=2")
    assert ended.code == 0, ended.err
    known = best_step(folder / "run")
    losses = scores(folder / "run")["loss"]
    assert known["step"] == min(losses, key=losses.__getitem__) < known["steps"]
    ended = run(capfd, folder, *given, f"trainer.steps={known['step']}", "run_dir=short")
    assert ended.code == 0, ended.err
    kept, short = (read_weights(folder / name / "weights.json") for name in ("run", "short"))
    assert (kept.last, kept.mean, kept.ema) == (short.last, short.mean, short.ema)
    assert kept.lineage["steps"] == known["step"]


def test_held_out_rows_are_in_no_training_and_a_chain_agrees_on_them(
    planted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(planted, tmp_path / "work"))
    ended = run(capfd, folder, *TDRO, *ROWS, "trainer.steps=3")
    assert ended.code == 0, ended.err
    sizes = json.loads((folder / "run/weights.json").read_text())["size"]
    assert sum(sizes.values()) < 120
    assert f"validation: {120 - sum(sizes.values())} rows of 3 domains are held out" in ended.out
    assert list(scores(folder / "run")["loss"]) == [2, 3]  # and after the last step
    tune = (*TUNE, "transfer.rule=reweight", "transfer.weights=run/weights.json", "trainer.steps=3")
    ended = run(capfd, folder, *tune, *ROWS, "run_dir=same")
    assert ended.code == 0, ended.err
    used = read_mixture(folder / "same/mixture.yaml")
    assert {name: share.of for name, share in used.shares.items()} == sizes
    ended = run(capfd, folder, *tune, "run_dir=all")
    assert ended.code == 3
    assert_one_message(ended, r"transfer\.weights was learned on other rows of easy \(other conte")


REFUSED = {
    "a folder has no loss": ((*PLANTED, "validation.metric=loss"), 2, "validation.folder needs"),
    "no negatives, no loss": (
        (*ROWS, "validation.metric=loss", "data.negatives=0"),
        2,
        "validation.metric=loss compares with hard negatives",
    ),
    "nothing is held out": (
        ("validation=held_out", "validation.held_out=1e-9"),
        2,
        "validation.held_out=1e-09 holds out no row of any domain",
    ),
    "no such folder": ((*PLANTED, "validation.folder=gone"), 3, "validation.folder=gone: no such"),
    "no such judgements": (
        (*PLANTED, "validation.split=test"),
        3,
        r"validation\.split=test: .*test\.tsv: no such",
    ),
    "the folder is not named": (("validation=beir",), 2, "validation.folder is not set"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_measured_is_refused_before_a_model_is_loaded(
    planted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    overrides, code, message = REFUSED[kind]
    for name in ("conf", "rows", "dev"):
        (tmp_path / name).symlink_to(planted / name)
    (tmp_path / "empty").mkdir()  # no model could be loaded of it
    ended = run(capfd, tmp_path, *TUNE, "model.path=empty", *overrides)
    assert ended.code == code
    assert_one_message(ended, message)


def test_a_finished_run_of_a_version_without_validation_is_used_again(
    planted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(planted, tmp_path / "work"))
    monkeypatch.chdir(folder)
    record = json.loads((folder / "short/run.json").read_text())
    del record["config"]["validation"]
    write_checked_json(folder / "short/run.json", record)
    search = f"hydra.searchpath=[file://{folder}/conf]"
    given = [search, *TUNE[:1], *SMALL[1:], f"trainer.steps={BEST}", "run_dir=short", "name=n"]

    def reason(*overrides: str) -> str | None:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = check_config(compose("config", [*given, *overrides]))
        return reason_to_run(stages()["fit"], config)

    assert reason() is None
    assert reason(*ROWS) == "validation.every changed from None to 2"


def test_a_plan_counts_the_rows_that_are_trained_on(
    planted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("conf", "rows", "model"):
        (tmp_path / name).symlink_to(planted / name)
    planned = {}
    for name, overrides in (("all", ()), ("less", ROWS)):
        ended = run(capfd, tmp_path, *TUNE, "stage=plan", f"run_dir={name}", *overrides)
        assert ended.code == 0, ended.err
        plan = json.loads((tmp_path / name / "plan.json").read_text())
        planned[name] = sum(domain["rows"] for domain in plan["domains"].values())
    assert planned["all"] == 120
    assert f"{120 - planned['less']} rows of 3 domains are held out" in ended.out
