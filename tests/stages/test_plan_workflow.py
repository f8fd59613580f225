"""The stage `plan` of evaluations and of whole workflows, the paper's tables among them."""

import json
import operator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tdro_lightning.config.shipped import conf_folder
from tdro_lightning.planning.evaluation import FILE
from tests.command import run
from tests.fixtures.plans import FAST, Planned, write_town


def test_a_chain_s_training_steps_are_planned_before_it_has_any_data(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ended = run(capfd, tmp_path, "+experiment=demo", "stage=plan")
    assert ended.code == 0, ended.err
    content = json.loads((tmp_path / "runs" / "demo" / "plan.json").read_text())
    steps = content["steps"]
    assert list(steps) == ["baselines", "reference", "tdro", "top70", "reweighted"]
    assert "domains.root=runs/demo/mine/train lacks content_words.jsonl.gz" in ended.out
    assert steps["reference"]["shape"]["hidden"] == 128
    trained = [step for step in steps.values() if "cost" in step]
    assert len(trained) == 4
    assert content["total"]["price"] == pytest.approx(sum(one["cost"]["price"] for one in trained))
    assert "their evaluation is not counted" in ended.out, "earlier steps make the sets"
    assert not (tmp_path / "runs" / "demo" / "run.json").exists(), "a plan is no run"


def documents_and_tokens(benchmark: str, limit: int) -> tuple[int, float]:
    """Of a benchmark's corpora, by its file and the published sizes."""
    corpora = json.loads(FILE.read_text())["corpora"]
    sets = OmegaConf.load(conf_folder() / "benchmark" / f"{benchmark}.yaml").sets
    if benchmark == "miracl":
        names = [f"miracl/miracl-corpus/miracl-corpus-v1.0-{one.language}" for one in sets.values()]
    else:
        names = ["mteb/nq"] if benchmark == "mkqa" else [one.hub for one in sets.values()]
    words = [corpora[name].get("words", 150 / 1.4) for name in names]  # MIRACL's are not published
    lengths = [min(limit, 1.4 * mean) for mean in words]
    counts = [corpora[name]["documents"] for name in names]
    return sum(counts), sum(map(operator.mul, counts, lengths))


def test_the_paper_s_table_in_runs_hours_memory_and_disk(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One of its six base models."""
    bases = ("qwen05b", "qwen18b", "qwen4b", "qwen7b", "mistral7b")
    fewer = [f"~chain.for_each.base.{base}" for base in bases]
    ended = run(
        capfd, tmp_path, "+experiment=table3", "stage=plan", "run_dir=plan", *fewer,
        "trainer.devices=8", "strategy=fsdp", "plan.price=2", "plan.mfu=0.3",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    content = json.loads((tmp_path / "plan/plan.json").read_text())
    steps, total = content["steps"], content["total"]
    trained = ["llama8b_uniform", "tdro", "llama8b_top70", "llama8b_reweighted"]
    assert [name for name in steps if "cost" in steps[name]] == trained
    flops = 2 * (steps["llama8b_top70"]["shape"]["frozen"] - 128_256 * 4096 - 3 * 4096 * 14336)
    hours = 0.0
    for mixture in ("uniform", "top70", "reweighted"):
        for name, benchmark in {"beir": "beir15", "miracl": "miracl", "mkqa": "mkqa"}.items():
            found = steps[f"llama8b_{mixture}_{name}"]["evaluation"]
            documents, tokens = documents_and_tokens(benchmark, 512)
            assert (found["documents"], found["encoders"]) == (documents, 1)
            assert found["tokens"] == pytest.approx(tokens)
            assert found["hours"] == pytest.approx(tokens * flops / (8 * 0.3 * 989e12) / 3600)
            hours += 8 * found["hours"]
    assert documents_and_tokens("miracl", 512)[0] == 106_332_152
    small = 297_265 + 506_264 + 131_924 + 518_079 + 542_166 + 49_043  # in float32
    embeddings = 4096 * (2 * (106_332_152 - small) + 4 * small)
    assert total["disk_bytes"] == embeddings + total["kept_bytes"]
    assert (total["trainings"], total["evaluations"]) == (4, 9)
    assert total["evaluation_gpu_hours"] == pytest.approx(hours)
    assert total["price"] == pytest.approx(2 * (hours + total["gpu_hours"]))
    assert total["kept_bytes"] == sum(step["kept_bytes"] for step in steps.values())
    for step in trained:
        case = next(
            c for c in steps[step]["cases"]
            if c["strategy"] == "fsdp" and c["activation_checkpointing"]
        )  # fmt: skip
        assert steps[step]["memory_bytes"] == case["bytes"]["total"]
    assert max(map(len, ended.out.partition("Not on this machine")[0].splitlines())) <= 80
    for step in steps:
        assert step in ended.out
    assert "4 trainings: " in ended.out
    assert "9 evaluations: " in ended.out


@pytest.mark.nightly  # minutes; a part of the first is by day above
@pytest.mark.parametrize(("table", "trainings", "evaluations"), [("3", 19, 54), ("5", 12, 27)])
def test_both_tables_of_the_paper_are_planned(
    table: str, trainings: int, evaluations: int, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = f"+experiment=table{table}"
    ended = run(capfd, tmp_path, name, "stage=plan", "run_dir=plan", FAST)
    assert ended.code == 0, ended.err
    total = json.loads((tmp_path / "plan/plan.json").read_text())["total"]
    assert (total["trainings"], total["evaluations"]) == (trainings, evaluations)
    assert all(total[key] > 0 for key in ("gpu_hours", "price", "memory_bytes", "disk_bytes"))


def test_an_evaluation_of_local_sets_is_counted_by_its_files(
    plan: Planned, made: tuple[str, ...], tmp_path: Path
) -> None:
    write_town(tmp_path)
    sets = ("+benchmark.layout=beir", "+benchmark.root=sets", "+benchmark.depth=10")
    sets = (*sets, "+benchmark.sets.town.folder=town", "+benchmark.sets.gone.folder=gone")
    ended, content = plan("evaluate", *made, *sets, "+evaluate.encoders.one=model", FAST)
    assert ended.code == 0, ended.err
    found = content["evaluation"]
    assert (found["documents"], found["encoders"], found["unknown"]) == (30, 1, ["gone"])
    assert found["bytes"] == 30 * 16 * 4
    assert found["tokens"] == 30 * 24, "cut at data.passage_tokens"
    assert "gone; their evaluation is not counted" in ended.out
