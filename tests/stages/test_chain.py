"""The demo's chain as a user runs it, on this Python's documentation, with a much smaller model."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tdro_lightning.errors import DataError
from tdro_lightning.records.outputs import require_intact
from tdro_lightning.report.collect import collect_runs
from tdro_lightning.training.checkpoint import read_checkpoint
from tests.command import run
from tests.damage import damages
from tests.nightly import nightly_but
from tests.processes import Started

SMALL = (
    "+experiment=demo",
    "chain.steps.harvest=[demo/harvest,'harvest.max_rows=300']",
    "model.tiny.vocabulary=600",
    "model.tiny.width=16",
    "model.tiny.layers=1",
    "trainer.steps=4",
    "data.batch_size=12",
    "logger.wandb=disabled",
    "~benchmark.sets.name_doc",
    "~benchmark.sets.comment_code",
    "~benchmark.sets.summary_code",
)
STEPS = ["harvest", "mine", "model", "baselines", "reference", "tdro", "top70", "reweighted"]


def interrupt(folder: Path) -> tuple[int, str]:
    """Send SIGINT to a chain while its reference trains; its exit code and output."""
    process = Started(folder, *SMALL, "trainer.steps=2000")
    process.send_when(signal.SIGINT, lambda: "reference: step" in process.printed)
    return process.wait(timeout=60), process.printed


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A chain that got SIGINT while its reference trained: folder, exit code, output."""
    folder = tmp_path_factory.mktemp("chain")
    return folder, *interrupt(folder)


@pytest.fixture(scope="module")
def finished(interrupted: tuple[Path, int, str]) -> tuple[Path, str]:
    """The same chain, run again to its end: folder and output."""
    folder = interrupted[0]
    refused = Started(folder, *SMALL)  # it was to have 2000 steps, and has done more than 4
    assert refused.wait() == 2, refused.printed
    assert "already at step" in refused.printed
    process = Started(folder, *SMALL, "trainer.resume=never")
    assert process.wait() == 0, process.printed
    return folder, process.printed


@pytest.fixture
def chain(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the finished chain that a test may damage."""
    return Path(shutil.copytree(finished[0], tmp_path / "chain"))


def skipped(printed: str) -> list[str]:
    return re.findall(r"\] (\w+): finished before", printed)


def table(printed: str) -> str:
    return printed[printed.index("nDCG@10 ×") : printed.index("Report:")]


def test_sigint_ends_with_130_and_says_how_to_resume(interrupted) -> None:
    folder, code, printed = interrupted
    assert code == 130, printed
    assert "run the same command with this run_dir" in printed
    assert "Traceback" not in printed
    record = json.loads((folder / "runs/demo/reference/run.json").read_text())
    assert record["status"] == "stopped"


def test_the_next_run_continues_at_the_first_unfinished_step(finished) -> None:
    assert skipped(finished[1]) == ["harvest", "mine", "model", "baselines"]


def test_every_retriever_is_in_the_table(finished) -> None:
    rows = {line.split("  ")[0].strip() for line in table(finished[1]).splitlines()}
    assert {"bm25", "untrained", "uniform", "top 70", "reweighted"} <= rows


def test_each_step_left_its_record(finished) -> None:
    demo = finished[0] / "runs" / "demo"
    for step in STEPS:
        record = json.loads((demo / step / "run.json").read_text())
        assert record["status"] == "finished", step
        assert record["name"] == f"demo/{step}"
        assert record["config"]["seed"] == 42
        assert record["versions"]["torch"]
        assert record["seconds"] > 0
    weights = json.loads((demo / "tdro" / "weights.json").read_text())
    assert sum(weights["domain_weights"].values()) == pytest.approx(1, abs=1e-9)
    assert set(weights["mean_weights"]) == set(weights["ema_weights"]) == set(weights["size"])
    lineage = json.loads((demo / "top70" / "run.json").read_text())["inputs"]
    assert lineage["weights"]["path"] == "runs/demo/tdro/weights.json"
    usage = json.loads((demo / "top70" / "data_usage.json").read_text())
    assert sum(entry["probability"] > 0 for entry in usage.values()) == 6  # floor(9 * 0.7)
    assert (demo / "report" / "report.html").is_file()


def test_a_second_run_skips_everything_and_prints_the_same_table(chain, finished, capfd) -> None:
    ended = run(capfd, chain, *SMALL)
    assert ended.code == 0, ended.err
    assert skipped(ended.out) == STEPS
    assert table(ended.out) == table(finished[1])


def test_a_changed_setting_runs_what_depends_on_it(chain, capfd) -> None:
    ended = run(capfd, chain, *SMALL, "chain.steps.tdro=[demo/tdro,'module.weights_lr=0.3']")
    assert ended.code == 0, ended.err
    assert skipped(ended.out) == ["harvest", "mine", "model", "baselines", "reference"]


def test_a_lost_output_is_made_again(chain, capfd) -> None:
    (chain / "runs/demo/tdro/weights.json").unlink()
    ended = run(capfd, chain, *SMALL)
    assert ended.code == 0, ended.err
    # The weights come out the same, so what was trained with them is still valid.
    assert skipped(ended.out) == [step for step in STEPS if step != "tdro"]


DAMAGED = ["tdro/weights.json", "reference/encoder/model.safetensors"]


@pytest.mark.parametrize("damaged", nightly_but(DAMAGED[:1], DAMAGED))
def test_a_changed_output_is_made_again_and_the_reason_is_said(chain, capfd, damaged) -> None:
    """And comes out as it was, so that what was made from it stays."""
    path = chain / "runs/demo" / damaged
    content = path.read_bytes()
    if path.suffix == ".json":
        value = json.loads(content)
        weights = value["domain_weights"]
        one, other = list(weights)[:2]
        weights[one], weights[other] = weights[other], weights[one]
        path.write_text(json.dumps(value))
    else:
        path.write_bytes(content[:-1000] + bytes(1000))
    ended = run(capfd, chain, *SMALL)
    assert ended.code == 0, ended.err
    step = damaged.partition("/")[0]
    assert skipped(ended.out) == [name for name in STEPS if name != step]
    assert re.search(rf"run again: runs/demo/{damaged} has ", ended.out), ended.out
    assert path.read_bytes() == content


def test_no_damaged_result_of_any_step_is_read(chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that a step wrote, damaged in every way: by what read it, and by the report."""
    monkeypatch.chdir(chain)
    records = {path.parent: json.loads(path.read_text()) for path in Path().rglob("run.json")}
    read = {Path(one["path"]) for r in records.values() for one in r["inputs"].values()}
    walked = set()
    for folder, record in records.items():
        for name in record["outputs"]:
            path = folder / name
            content = path.read_bytes()
            readers = [path, *(one for one in read if one in path.parents)]
            for damage, changed in damages(path, older=b"older"):
                path.write_bytes(changed)
                for reader in readers:
                    with pytest.raises(DataError, match=re.escape(name)):
                        require_intact(reader)
                if record["stage"] not in ("report", "chain"):
                    with pytest.raises(DataError, match=re.escape(name)):
                        collect_runs([folder])
                walked.add((record["stage"], path.suffix, damage))
            path.write_bytes(content)
            assert require_intact(path)
    assert {stage for stage, *_ in walked} >= {"harvest", "mine", "init_model", "evaluate", "fit"}
    assert {".json", ".csv", ".gz", ".safetensors"} <= {suffix for _, suffix, _ in walked}
    assert len({damage for *_, damage in walked}) >= 8


def test_an_unfinished_step_has_no_results(chain, capfd) -> None:
    """Those of the run before are kept aside, and no report takes them for its own."""
    reference = chain / "runs/demo/reference"
    before = (reference / "metrics.json").read_bytes()
    code, printed = interrupt(chain)
    assert code == 130, printed
    assert "run again: trainer.steps changed from 4 to 2000" in printed
    left = {path.name for path in reference.iterdir()}
    assert not left & {"metrics.json", "per_query", "encoder"}
    assert (reference / "previous/metrics.json").read_bytes() == before
    ended = run(capfd, chain, "+experiment=report", "report.runs=[runs/demo]")
    assert ended.code == 0, ended.err
    assert not re.search(r"^uniform ", ended.out, re.MULTILINE)


def test_a_sweep_over_the_top_share_ends_in_one_table(chain, capfd) -> None:
    ended = run(
        capfd, chain, "-m", "+experiment=demo/finetune_top", "transfer.share=50,60,70,80",
        "hydra.sweep.dir=runs/sweep/share", *SMALL[2:],
    )  # fmt: skip
    assert ended.code == 0, ended.err
    ended = run(capfd, chain, "+experiment=report", "report.runs=[runs/demo,runs/sweep]")
    assert ended.code == 0, ended.err
    rows = [line.split("  ")[0].strip() for line in table(ended.out).splitlines()]
    # top 70 was trained by the chain too, with the same seed.
    for share in (50, 60, 80):
        assert f"top {share}" in rows
    main = table(ended.out).partition("Gain in")[0].splitlines()
    assert sum(row.startswith("top 70") for row in main) == 2


def test_a_step_s_own_seed_stands_above_the_command_line_s(chain, capfd) -> None:
    step = "+chain.steps.again=[demo/reference,'seed=7','trainer.steps=2']"
    ended = run(capfd, chain, *SMALL, "seed=42", step)
    assert ended.code == 0, ended.err
    assert skipped(ended.out) == STEPS
    record = json.loads((chain / "runs/demo/again/run.json").read_text())
    assert (record["seed"], record["config"]["trainer"]["steps"]) == (7, 4)


def test_a_chain_that_reads_another_s_files_says_which(tmp_path: Path, capfd) -> None:
    ended = run(capfd, tmp_path, "+experiment=robustness_tdro_mini", "seed=3")
    assert ended.code == 2
    assert "chain.source=runs/measurement_tdro_mini/seed3: no such folder" in ended.err
    assert "finished chain of this seed" in ended.err


def test_bad_input_of_a_step_ends_the_chain(chain, capfd) -> None:
    ended = run(capfd, chain, *SMALL, "chain.steps.top70=[demo/finetune_top,'transfer.share=1']")
    assert ended.code == 2
    assert "transfer.share=1.0 keeps none of the 9 domains" in ended.err


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same chain by two processes that share each model: folder and output."""
    folder = tmp_path_factory.mktemp("spread")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ended = subprocess.run(
        [*launcher, "--nproc-per-node=2", "-m", "tdro_lightning", *SMALL, *SHARDED],
        cwd=folder, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout


SHARDED = ("strategy=fsdp", "trainer.checkpoint_every=2", "trainer.chunk_tokens=1000")


def weights(run_folder: Path) -> dict[str, float]:
    return json.loads((run_folder / "weights.json").read_text())["domain_weights"]


@pytest.mark.nightly
def test_two_processes_run_the_chain_with_the_same_results(spread, finished) -> None:
    folder, printed = spread
    ours, theirs = (f / "runs/demo" for f in (finished[0], folder))
    assert weights(theirs / "tdro") == pytest.approx(weights(ours / "tdro"), abs=1e-5)
    for step in STEPS:
        assert (theirs / step / "run.json").is_file()
    assert printed.count("[6/9] tdro") == 1
    assert (theirs / "rank-1.log").is_file()
    for run_folder in ("reference", "top70", "reweighted"):
        losses = [
            [line for line in path.read_text().splitlines()[1:] if "speed/" not in line]
            for path in (f / run_folder / "history.csv" for f in (ours, theirs))
        ]
        for one, other in zip(*losses, strict=True):
            assert one.split(",")[:2] == other.split(",")[:2]
            assert float(other.split(",")[2]) == pytest.approx(float(one.split(",")[2]), abs=1e-3)


@pytest.mark.nightly
def test_a_run_of_two_processes_goes_on_in_one(spread, tmp_path: Path, capfd) -> None:
    """From a checkpoint of sharded models: the next batches, the weights and the parameters."""
    chain = Path(shutil.copytree(spread[0], tmp_path / "chain"))
    for stage, experiment in (("tdro", "demo/tdro"), ("reference", "demo/reference")):
        folder = chain / "runs/demo" / stage
        two, four = sorted((folder / "checkpoints").iterdir())
        expected = read_checkpoint(four)
        history = (folder / "history.csv").read_text().splitlines()
        shutil.rmtree(four)
        again = run(
            capfd, chain, f"+experiment={experiment}", *(o for o in SMALL[2:] if "sets" not in o),
            "chain_dir=runs/demo", f"run_dir=runs/demo/{stage}", "trainer.resume=must",
            "trainer.checkpoint_every=2",
        )  # fmt: skip
        assert again.code == 0, again.err
        assert "step 4/4" in again.out
        got = read_checkpoint(folder / "checkpoints" / four.name)
        assert got["state_dict"].keys() == expected["state_dict"].keys()
        for name, value in expected["state_dict"].items():
            torch.testing.assert_close(got["state_dict"][name], value, rtol=0, atol=1e-6, msg=name)
        if stage == "tdro":
            assert weights(folder) == pytest.approx(weights(spread[0] / "runs/demo/tdro"), abs=1e-6)
        lines = (folder / "history.csv").read_text().splitlines()
        assert [line.split(",")[:2] for line in lines] == [line.split(",")[:2] for line in history]
        first_steps = [line for line in history if line.startswith(("0,", "1,"))]
        assert [line for line in lines if line.startswith(("0,", "1,"))] == first_steps
