"""Sweeps: a summary at the end, jobs that fail, launchers with processes of their own."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tdro_lightning.data.jsonl import write_rows
from tests.command import run
from tests.made_up import (
    CHEAP,
    rows,
    tiny_model,
    write_cheap_inputs,
    write_domain_option,
    write_domains,
)
from tests.runs.test_trackers import records

SMALL = (
    "domains=made", "benchmark=made", "model.path=model", "model.lora=null",
    "data.batch_size=6", "data.query_tokens=40", "data.passage_tokens=16", "data.workers=0",
    "trainer.steps=2", "trainer.precision=32-true", "logger.wandb=disabled",
)  # fmt: skip
CONF = "--config-dir=conf"


@pytest.fixture
def folder(judged_folder: Path) -> Path:
    return judged_folder


def cheap_sweep(place: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A sweep of short runs, as a command."""
    write_cheap_inputs(place)
    return subprocess.run(
        [sys.executable, "-m", "tdro_lightning", "-m", *CHEAP, "hydra.sweep.dir=sweep", *overrides],
        cwd=place, capture_output=True, text=True, timeout=250,
    )  # fmt: skip


def test_a_sweep_ends_in_a_table_and_a_plot(capfd: pytest.CaptureFixture[str], folder: Path):
    """Three shares, of which one keeps no domain, against the baseline that the weights name."""
    write_domain_option(folder, write_domains(folder / "rows", count=12))
    tiny_model(folder / "model")
    ended = run(capfd, folder, CONF, "+experiment=finetune_uniform", *SMALL, "run_dir=base")
    assert ended.code == 0, ended.err
    learn = ["+experiment=tdro_qwen05b", "module.reference=base/encoder", "run_dir=tdro"]
    ended = run(capfd, folder, CONF, *learn, *[s for s in SMALL if "benchmark" not in s])
    assert ended.code == 0, ended.err
    sweep = ["+experiment=finetune_top70", "+sweep=top_share", "transfer.share=10,40,70"]
    own = ["transfer.weights=tdro/weights.json", "hydra.sweep.dir=sweep"]
    ended = run(capfd, folder, CONF, *sweep, *own, *SMALL)
    assert ended.code == 2
    assert ended.err.count("error:") == 1
    assert "error: job transfer.share=10: transfer.share=10.0 keeps none of the 3" in ended.err
    # The scores once more, from the files.
    scores = {}
    for name, place in (
        ("base", "base"),
        ("40", "sweep/finetune_top70/1"),
        ("70", "sweep/finetune_top70/2"),
    ):  # noqa: E501
        sets = json.loads((folder / place / "metrics.json").read_text())["retrievers"]
        ((_, found),) = sets.items()
        value = {key: 100 * one["ndcg@10"] for key, one in found["sets"].items()}
        scores[name] = (value["nq"] + (value["group/one"] + value["group/two"]) / 2) / 2
    lines = [line.split() for line in ended.out.splitlines()]
    table = {
        line[0]: line[1:] for line in lines if len(line) > 2 and line[1] in ("finished", "failed:")
    }  # noqa: E501
    assert list(table) == ["10", "40", "70"]
    for share in ("40", "70"):
        assert table[share][1] == f"{scores[share]:.1f}"
        gain = float(table[share][2].rstrip("*†"))
        assert gain == pytest.approx(scores[share] - scores["base"], abs=0.06)
    plot = [line for line in lines if len(line) == 3 and "●" in line[1]]
    assert [(line[0], line[2]) for line in plot] == [(s, table[s][1]) for s in ("40", "70")]
    # The report holds both; made again from the folder, it is the same.
    page = (folder / "sweep" / "report.html").read_text()
    assert "Sweep over transfer.share" in page
    assert "keeps none of the 3 domains" in page
    figure = folder / "sweep" / "figures" / "sweep-0-1.svg"
    texts = ["".join(e.itertext()) for e in ElementTree.parse(figure).iter() if "text" in e.tag]
    assert {"40", "70", "transfer.share"} <= set(texts)
    assert any(text.startswith("uniform ") for text in texts)
    ended = run(capfd, folder, "+experiment=report", "report.runs=[sweep]", "run_dir=again")
    assert ended.code == 0, ended.err
    assert "Sweep over transfer.share" in ended.out
    assert "uniform" in ended.out


def test_every_job_has_its_process(tmp_path: Path) -> None:
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    ended = cheap_sweep(tmp_path, "+sweep=seeds", "seed=1,2", *launcher)
    assert ended.returncode == 0, ended.stderr
    records = [json.loads(p.read_text()) for p in sorted(tmp_path.rglob("run.json"))]
    assert [(r["seed"], r["status"]) for r in records] == [(1, "finished"), (2, "finished")]
    assert "Sweep over seed" in ended.stdout


def test_a_failed_job_elsewhere_does_not_stop_the_others_and_is_told(tmp_path: Path) -> None:
    ended = cheap_sweep(tmp_path, "data.negatives=-1,1", "hydra/launcher=submitit_local")
    assert ended.returncode == 2
    message = "data.negatives=-1 must be from 0 to 10,000"
    assert f"error: job data.negatives=-1: {message}" in ended.stderr
    assert f"failed: {message}" in ended.stdout
    (record,) = tmp_path.rglob("run.json")
    assert json.loads(record.read_text())["status"] == "finished"


@pytest.mark.nightly
def test_a_sweep_over_rules_is_one_table_one_plot_and_one_group(
    capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    """Six rules against both baselines, beside the reference that made the weights of one."""
    write_domain_option(folder, write_domains(folder / "rows", count=12))
    write_rows(folder / "rows" / "hard.jsonl", rows("hard", 90, 0))
    tiny_model(folder / "model")
    ended = run(capfd, folder, CONF, "+experiment=finetune_uniform", *SMALL, "run_dir=base")
    assert ended.code == 0, ended.err
    learn = ["+experiment=tdro_qwen05b", "module.reference=base/encoder", "run_dir=tdro"]
    ended = run(capfd, folder, CONF, *learn, *[s for s in SMALL if "benchmark" not in s])
    assert ended.code == 0, ended.err
    rules = ("uniform", "proportional", "temperature", "unimax", "random_share", "top_share")
    ended = run(
        capfd, folder, CONF, "-m", "+experiment=finetune_mixture", *SMALL[:-1],
        f"transfer.rule={','.join(rules)}", "transfer.weights=tdro/weights.json",
        "hydra.sweep.dir=sweeps/rules", "logger.wandb=offline",
        "trainer.steps=8", "optimiser.lr=0.01", "optimiser.warmup_steps=1",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    # The scores once more, from the files; a group is one set in averages and its parts are two.
    scores = {}
    for number, rule in enumerate(rules):
        place = folder / f"sweeps/rules/finetune_mixture/{number}/metrics.json"
        ((_, found),) = json.loads(place.read_text())["retrievers"].items()
        scores[rule] = {name: 100 * one["ndcg@10"] for name, one in found["sets"].items()}
    average = {r: s["nq"] / 2 + (s["group/one"] + s["group/two"]) / 4 for r, s in scores.items()}
    assert len({round(value, 3) for value in average.values()}) > 2
    lines = ended.out.splitlines()
    assert sum(line.startswith("Sweep over transfer.rule") for line in lines) == 1
    table = {row[0]: row for line in lines if len(row := line.split()) > 4 and "finished" in row}
    assert tuple(table) == rules
    for rule, row in table.items():
        assert row[2] == f"{average[rule]:.1f}"
        cells = row[3:]
        for base in ("uniform", "proportional"):
            gain, cells = cells[0].rstrip("*†"), cells[1:]
            if rule == base:
                assert gain == cells.pop(0) == "–"
                continue
            assert float(gain) == pytest.approx(average[rule] - average[base], abs=0.06)
            fell = sum(scores[rule][name] < scores[base][name] - 1 for name in scores[rule])
            assert cells[:3] == [str(fell), "of", "3"]
            cells = cells[3:]
    assert sum("●" in line for line in lines) == len(rules)
    assert any(line.startswith(("Alarm: ", "No alarm: ")) for line in lines)
    assert len(list((folder / "sweeps/rules/figures").glob("sweep-0-*.svg"))) == 1
    # W&B has them as one group, each under a name of its own.
    begun = [
        record.run
        for file in sorted(folder.glob("sweeps/rules/*/*/wandb/offline-run-*/*.wandb"))
        for record in records(file)
        if record.HasField("run")
    ]
    assert {one.run_group for one in begun} == {"sweeps/rules"}
    assert {one.display_name for one in begun} == {
        f"finetune_mixture [rule={rule}]" for rule in rules
    }
    assert len({one.run_id for one in begun}) == len(rules)
