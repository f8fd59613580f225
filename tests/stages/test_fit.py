"""A training as a user starts it: small, refused before it begins, and ended by a loader."""

import gzip
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tdro_lightning.data.dataset import RetrievalDataset
from tdro_lightning.dro.mixture_file import read_mixture
from tdro_lightning.models.tiny import build_tiny_model
from tests.command import assert_one_message, run
from tests.made_up import needs_shared_memory, rows, write_inputs

SMALL = (
    "data.batch_size=6",
    "data.query_tokens=40",
    "data.passage_tokens=16",
    "data.workers=0",
    "model.lora=null",
    "trainer.steps=3",
    "trainer.precision=32-true",
    "logger.wandb=disabled",
)
GIVEN = ("--config-dir=conf", "domains=made", *SMALL, "model.path=model", "run_dir=run")
TDRO = ("+experiment=tdro_qwen05b", "module.reference=reference")
TUNE = ("+experiment=finetune_top70", "transfer.weights=weights.json")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three domains, a model, a reference and a weights file."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    weights = {"easy": 0.2, "middle": 0.3, "hard": 0.5}
    content = {"domain_weights": weights, "size": dict.fromkeys(weights, 40)}
    (folder / "weights.json").write_text(json.dumps(content))
    return folder


def test_the_same_experiment_runs_small_and_its_weights_are_used(command, folder: Path) -> None:
    ended = command(*TDRO)
    assert ended.code == 0, ended.err
    weights = json.loads((folder / "run" / "weights.json").read_text())
    assert sum(weights["domain_weights"].values()) == pytest.approx(1, abs=1e-9)
    assert weights["size"] == {"easy": 40, "middle": 40, "hard": 40}
    assert weights["lineage"]["steps"] == 3
    history = (folder / "run" / "history.csv").read_text().splitlines()
    for step in range(3):
        for title in ("weights", "measurement", "loss/proxy", "loss/reference"):
            assert sum(line.startswith(f"{step},{title}/") for line in history) == 3
    ended = command(*TUNE, "transfer.weights=run/weights.json", "run_dir=tuned")
    assert ended.code == 0, ended.err
    usage = json.loads((folder / "tuned" / "data_usage.json").read_text())
    assert sorted(entry["probability"] for entry in usage.values()) == [0, 0.5, 0.5]
    record = json.loads((folder / "tuned" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["inputs"]["weights"]["path"] == "run/weights.json"
    assert len(record["inputs"]["weights"]["sha256"]) == 64
    assert (folder / "tuned" / "encoder" / "model.safetensors").is_file()


def test_weights_learned_on_other_rows_are_refused(command, folder: Path) -> None:
    assert command(*TDRO).code == 0
    damage(folder / "rows" / "hard.jsonl", 7, lambda row: row.update(query="another question"))
    ended = command(*TUNE, "transfer.weights=run/weights.json", "run_dir=tuned")
    assert ended.code == 3
    assert_one_message(ended, r"other rows of hard \(other content\)")
    assert not (folder / "tuned" / "history.csv").exists()
    accepted = ["transfer.same_data=false", "transfer.noise=0.3", "run_dir=accepted"]
    ended = command(*TUNE, "transfer.weights=run/weights.json", *accepted)
    assert ended.code == 0, ended.err
    mixture = read_mixture(folder / "accepted" / "mixture.yaml")
    assert sorted(mixture.probability.values()) == [0, 0.5, 0.5]
    assert mixture.lineage["transfer"]["rule"] == "top_share"
    assert mixture.lineage["weights"]["steps"] == 3


def test_group_dro_needs_no_reference(command, folder: Path) -> None:
    ended = command(*TDRO, "module=group_dro", "module.reference=null")
    assert ended.code == 0, ended.err
    record = json.loads((folder / "run" / "run.json").read_text())
    assert "reference" not in record["inputs"]


def test_a_second_run_finds_every_reference_loss(command, folder: Path) -> None:
    """With all rows known or none, the weights are the same to the last byte."""
    runs = {"without": "null", "first": "losses", "second": "losses"}
    for name, place in runs.items():
        ended = command(*TDRO, f"module.reference_cache={place}", f"run_dir={name}")
        assert ended.code == 0, ended.err
    for name, expected in (("without", []), ("first", ["0.0"] * 3), ("second", ["1.0"] * 3)):
        lines = (folder / name / "history.csv").read_text().splitlines()
        assert [x.split(",")[2] for x in lines if ",reference_cached," in x] == expected
        curves = [line for line in lines if "weights/" in line or "loss" in line]
        if name == "without":
            plain, weights = curves, (folder / name / "weights.json").read_bytes()
        assert curves == plain
        assert (folder / name / "weights.json").read_bytes() == weights
    (file,) = (folder / "losses").rglob("*.losses")
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT count(*) FROM losses").fetchone() == (3 * 6,)
    ended = command(*TDRO, "module.reference_cache=model/config.json")
    assert ended.code == 2
    assert_one_message(ended, r"module\.reference_cache=model/config\.json: a file stands there")


def test_a_cache_that_nothing_would_read_is_not_made(command, folder: Path) -> None:
    overrides = ["module.measurement=plain", "module.reference_cache=losses"]
    assert command(*TDRO, *overrides).code == 0
    assert not (folder / "losses").exists()


def damage(path: Path, line: int, change: Callable[[dict], object]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[line - 1])
    changed = change(row)
    lines[line - 1] = changed if isinstance(changed, str) else json.dumps(row)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


BAD_ROWS = {
    "broken JSON": (lambda row: '{"query_id": "x", ', r"hard\.jsonl:7: not valid JSON"),
    "no positives": (
        lambda row: row.update(positive_passages=[]),
        r"hard\.jsonl:7: `positive_passages` is empty",
    ),
    "no negatives": (
        lambda row: row.update(negative_passages=[]),
        r"hard\.jsonl:7: `negative_passages` is empty",
    ),
    "empty query": (lambda row: row.update(query=" "), r"hard\.jsonl:7: `query` is empty"),
    "empty passage": (
        lambda row: row["positive_passages"][0].update(text=""),
        r"hard\.jsonl:7: in `positive_passages\[0\]`: `text` is empty",
    ),
    "duplicate id": (
        lambda row: row.update(query_id="hard-0"),
        r"hard\.jsonl:7: `query_id` stands in line 1 already",
    ),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_rows_end_before_training(command, folder: Path, kind: str) -> None:
    change, message = BAD_ROWS[kind]
    damage(folder / "rows" / "hard.jsonl", 7, change)
    ended = command(*TDRO)
    assert ended.code == 3
    assert_one_message(ended, message)
    assert not (folder / "run" / "history.csv").exists()


BAD_OVERRIDES = {
    "unknown key": (["trainer.stepz=3"], r"trainer\.stepz.*did you mean trainer\.steps\?"),
    "wrong type": (["trainer.steps=many"], r"trainer\.steps.*'many'"),
    "unknown group option": (["model=qwen99b"], r"model/qwen99b"),
    "unknown measurement": (["module.measurement=best"], r"module\.measurement='best'.*ratio"),
    "negative temperature": (["module.temperature=-1"], r"module\.temperature=-1\.0 must be above"),
    "unknown domain": (["domains.only=[easy,harsh]"], r"domains\.only names \['harsh'\]"),
    "missing folder": (["domains.root=nowhere"], r"nowhere/easy\.jsonl: no such file"),
    "missing reference": (["module.reference=nowhere"], r"module\.reference=nowhere: no such"),
    "small batch": (["data.batch_size=2"], r"data\.batch_size=2 must be at least.*3"),
    "no such model": (["model.path=./nowhere"], r"model: \./nowhere: no such folder"),
    "flash attention": (["model.attention=flash_attention_2"], r"flash_attention_2 needs"),
}


@pytest.mark.parametrize("kind", BAD_OVERRIDES)
def test_bad_configuration_ends_before_training(command, folder: Path, kind: str) -> None:
    overrides, message = BAD_OVERRIDES[kind]
    ended = command(*TDRO, *overrides)
    assert ended.code == (3 if "no such" in message or "missing" in kind else 2)
    assert_one_message(ended, message)
    assert not (folder / "run" / "history.csv").exists()


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (("optimiser.lr=0", "trainer.steps=0"), ("optimiser.lr=0", "trainer.steps=0")),
        (("data.negatives=0", "data.batch_size=1"), ("data.negatives must", "data.batch_size=1")),
    ],
)
def test_all_violations_come_in_one_message(command, overrides, parts) -> None:
    """First the values that no run could have, then those that do not fit together."""
    ended = command(*TDRO, *overrides)
    assert ended.code == 2
    for part in parts:
        assert part in ended.err


def test_a_missing_reference_key_is_named(capfd, folder: Path) -> None:
    ended = run(capfd, folder, "+experiment=tdro_qwen05b")
    assert ended.code == 2
    assert_one_message(ended, r"module\.reference is not set")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"easy": 0.5, "middle": 0.3, "hard": 0.5}, r"weights\.json: .*sums to 1\.3"),
        ({"easy": 0.5, "gone": 0.5}, r"without a weight: \['middle', 'hard'\].*\['gone'\]"),
        ({"easy": -0.5, "middle": 1.0, "hard": 0.5}, r"weights\.json: `domain_weights\.easy`"),
    ],
)
def test_unusable_weights_are_refused(command, folder: Path, content, message: str) -> None:
    (folder / "weights.json").write_text(json.dumps({"domain_weights": content, "size": {}}))
    ended = command(*TUNE)
    assert ended.code == (2 if "gone" in content else 3)
    assert_one_message(ended, message)


def test_a_missing_weights_file_is_named(command) -> None:
    ended = command(*TUNE, "transfer.weights=gone.json")
    assert ended.code == 3
    assert_one_message(ended, r"gone\.json: no such file")


def test_a_tokenizer_without_eos_is_refused(command, folder: Path) -> None:
    path = folder / "model" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["eos_token"] = None
    path.write_text(json.dumps(settings))
    ended = command(*TDRO)
    assert ended.code == 2
    assert_one_message(ended, r"model\.path=model: the tokenizer has no EOS token")


def other_reference(folder: Path, name: str, vocabulary: int, width: int) -> None:
    texts = [row["query"] for row in rows(name, 50, 2)]
    shutil.rmtree(folder / "reference")
    build_tiny_model(
        texts, folder / "reference", vocabulary=vocabulary, width=width, layers=2, heads=2, seed=1
    )


def test_a_reference_with_another_tokenizer_is_refused(command, folder: Path) -> None:
    other_reference(folder, "other", vocabulary=280, width=16)
    ended = command(*TDRO)
    assert ended.code == 2
    assert_one_message(ended, r"module\.reference: its vocabulary differs")


def test_a_reference_may_have_another_width(command, folder: Path) -> None:
    """Only its losses are used."""
    other_reference(folder, "easy", vocabulary=300, width=32)
    ended = command(*TDRO)
    assert ended.code == 0, ended.err


@needs_shared_memory
def test_a_loader_process_that_is_killed_ends_the_run(command, monkeypatch) -> None:
    """Also the second training of this process, as in a chain."""
    assert command(*TDRO, "data.workers=1").code == 0

    def killed(self: RetrievalDataset, draw: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(RetrievalDataset, "_example", killed)
    ended = command(*TDRO, "data.workers=2")
    assert ended.code == 6
    assert_one_message(ended, r"a loader process ended or hangs .* data\.workers=2 of them; lower")


def test_gzipped_rows_are_read(command, folder: Path) -> None:
    path = folder / "rows" / "hard.jsonl"
    (folder / "rows" / "hard.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    ended = command(*TDRO, "domains.catalogue.hard.file=hard.jsonl.gz")
    assert ended.code == 0, ended.err


def test_a_group_set_to_null_says_how_to_leave_it_out(command) -> None:
    ended = command(*TUNE, "benchmark=null")
    assert ended.code == 2
    assert ended.err == "error: a group cannot be null; write ~benchmark\n"


def test_a_key_of_a_section_that_is_not_in_use_says_so(command) -> None:
    ended = command(*TUNE, "harvest.max_rows=3")
    assert ended.code == 2
    assert "the section `harvest` is not in use in this experiment" in ended.err
