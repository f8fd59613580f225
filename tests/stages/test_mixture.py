"""Mixtures by size, by hand and within bounds, as a user asks for them."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tdro_lightning.data.randomness import choose_rows
from tdro_lightning.dro.mixture_file import read_mixture
from tests.command import assert_one_message
from tests.fixtures.commands import Command

GIVEN = (
    "--config-dir=conf", "+experiment=finetune_uniform", "domains=made", "model.path=model",
    "model.lora=null", "data.batch_size=4", "data.query_tokens=40", "data.passage_tokens=16",
    "data.workers=0", "trainer.steps=3", "trainer.precision=32-true", "logger.wandb=disabled",
    "run_dir=run", "++domains.rows={easy: 5, middle: 15, hard: 40}",
)  # fmt: skip


def mixture(folder: Path) -> dict[str, float]:
    probability = read_mixture(folder / "run/mixture.yaml").probability
    assert sum(probability.values()) == pytest.approx(1, abs=1e-9)
    return probability


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("transfer.rule=proportional",), {"easy": 5 / 60, "middle": 15 / 60, "hard": 40 / 60}),
        (("transfer.rule=cap", "transfer.cap=10"), {"easy": 0.2, "middle": 0.4, "hard": 0.4}),
        (
            ("transfer.rule=reweight", "transfer.given={easy: 3, middle: 0, hard: 1}"),
            {"easy": 0.75, "middle": 0.0, "hard": 0.25},
        ),
        (
            ("transfer.rule=top_share", "transfer.given={easy: 3, middle: 0, hard: 1}"),
            {"easy": 0.5, "middle": 0.0, "hard": 0.5},
        ),
    ],
)
def test_rules_by_size_and_weights_by_hand(
    command: Command, folder: Path, options: tuple[str, ...], expected: dict[str, float]
) -> None:
    ended = command(*options)
    assert ended.code == 0, ended.err
    assert mixture(folder) == pytest.approx(expected, abs=1e-12)
    assert "bounds" not in ended.out


def test_bounds_change_the_mixture_and_say_so(command: Command, folder: Path) -> None:
    ended = command(
        "transfer.rule=proportional", "transfer.most={hard: 0.5}", "transfer.drop=[easy]"
    )
    assert ended.code == 0, ended.err
    assert mixture(folder) == pytest.approx({"easy": 0.0, "middle": 0.5, "hard": 0.5}, abs=1e-9)
    changes = [
        "transfer.drop=easy: 0.083 became 0.000",
        "transfer.most.hard=0.5: 0.667 became 0.500",
    ]
    for change in changes:
        assert change in ended.out
    assert read_mixture(folder / "run/mixture.yaml").changes == changes


def test_a_group_and_passes_are_bounded_and_a_domain_is_kept(
    command: Command, folder: Path
) -> None:
    """Twelve rows are drawn: one pass over `easy` is 5 of them."""
    ended = command(
        "transfer.rule=reweight", "transfer.given={easy: 1, middle: 1, hard: 0}",
        "transfer.most_epochs=0.6", "transfer.keep=[hard]",
        "transfer.least={language/English: 1}",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = mixture(folder)
    assert found["easy"] == pytest.approx(0.25, abs=1e-9)
    assert found["middle"] == pytest.approx(found["hard"], abs=1e-9)
    assert "transfer.keep=hard: the rule leaves it out, and it is kept" in ended.out


def test_a_small_domain_has_smaller_batches_or_is_left_out(command: Command, folder: Path) -> None:
    ended = command("data.batch_size=12", "transfer.rule=uniform")
    assert ended.code == 0, ended.err
    assert "easy: it has 5 rows, fewer than a batch; its batches are smaller" in ended.out
    usage = json.loads((folder / "run/data_usage.json").read_text())
    batches = [
        usage["easy"]["drawn"] / 5,
        usage["middle"]["drawn"] / 12,
        usage["hard"]["drawn"] / 12,
    ]
    assert sum(batches) == 3
    assert all(count == int(count) for count in batches)
    ended = command("data.batch_size=12", "data.small_domains=leave_out", "run_dir=run")
    assert ended.code == 0, ended.err
    assert mixture(folder) == pytest.approx({"easy": 0.0, "middle": 0.5, "hard": 0.5}, abs=1e-9)
    assert "data.small_domains=leave_out of easy with 5 rows: 0.333 became 0.000" in ended.out


def test_a_budget_of_rows_is_shared_as_the_mixture_is(command: Command, folder: Path) -> None:
    """Of 20 rows, `easy` has no more than its 5, and 15 go to the others, 1 to 2."""
    ended = command(
        "transfer.rule=reweight", "transfer.given={easy: 2, middle: 1, hard: 2}",
        "transfer.budget=20", "data.batch_size=2", "trainer.steps=40",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    mixture = read_mixture(folder / "run/mixture.yaml")
    assert {name: share.rows for name, share in mixture.shares.items()} == {
        "easy": 5, "middle": 5, "hard": 10,
    }  # fmt: skip
    assert "transfer.budget=20: 10 of the 40 rows of hard are used" in ended.out
    usage = json.loads((folder / "run/data_usage.json").read_text())
    assert {name: used["rows"] for name, used in usage.items()} == {
        "easy": 5, "middle": 5, "hard": 10,
    }  # fmt: skip
    planned = command("transfer.budget=20", "stage=plan")
    assert planned.code == 0, planned.err
    assert re.search(r"hard +8 ", planned.out), planned.out


def test_a_mixture_is_made_without_a_training(command: Command, folder: Path) -> None:
    """It serves a fine-tuning as weights, and is what that fine-tuning writes."""
    ended = command(
        "stage=mixture", "transfer.rule=temperature", "transfer.budget=30",
        "transfer.drop=[easy]", "run_dir=mixture",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    made = read_mixture(folder / "mixture/mixture.yaml")
    assert made.rule == "size^0.5, bounded"
    assert made.probability["easy"] == 0
    assert made.probability["hard"] / made.probability["middle"] == pytest.approx((40 / 15) ** 0.5)
    assert sorted(path.name for path in (folder / "mixture").iterdir()) == [
        ".lock", "mixture.yaml", "run.json", "status.json", "tdro_lightning.log",
    ]  # fmt: skip
    assert re.search(r"hard +0\.6202 +19 +0\.39", ended.out), ended.out
    ended = command(
        "transfer.rule=reweight", "transfer.weights=mixture/mixture.yaml", "transfer.budget=30"
    )
    assert ended.code == 0, ended.err
    used = read_mixture(folder / "run/mixture.yaml")
    assert used.shares.keys() == made.shares.keys()
    assert {n: s.rows for n, s in used.shares.items()} == {
        n: s.rows for n, s in made.shares.items()
    }
    assert used.probability == pytest.approx(made.probability)


def rows_of(path: Path, key: str) -> list[str]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line[key] and all(isinstance(text, str) for text in line[key]) for line in lines)
    return [line["query"] for line in lines]


def test_other_trainers_get_the_rows_that_this_one_draws(command: Command, folder: Path) -> None:
    """36 rows: 18 of `easy` are three passes over its 5 rows and 3 more, 18 of `hard` a part."""
    ended = command(
        "stage=mixture", "transfer.rule=reweight", "run_dir=mixture",
        "transfer.given={easy: 1, middle: 0, hard: 1}", "trainer.steps=9",
        "mixture.formats=[flag_embedding,nemo_automodel,interleave_datasets]",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    made = folder / "mixture"
    listed = (made / "flag_embedding/train_data.txt").read_text().split()
    names = [Path(path).name for path in listed]
    assert names == [*["easy.all.jsonl"] * 3, "easy.part.jsonl", "hard.part.jsonl"]
    queries = [rows_of(folder / path, "pos") for path in listed]
    assert [len(part) for part in queries] == [5, 5, 5, 3, 18]
    assert {*queries[3]} <= {*queries[0]}
    assert all(len({*part}) == len(part) for part in queries)
    assert all("middle" not in path.name for path in (made / "flag_embedding").iterdir())
    assert [*map(len, (rows_of(folder / path, "neg") for path in listed))] == [5, 5, 5, 3, 18]
    sources = yaml.safe_load((made / "nemo_automodel/data_dir_list.yaml").read_text())
    easy, hard = (f"mixture/nemo_automodel/{name}.jsonl" for name in ("easy", "hard"))
    assert sources == {
        "data_dir_list": [
            {"path": easy}, {"path": easy}, {"path": easy}, {"path": easy, "num_samples": 3},
            {"path": hard, "num_samples": 18},
        ]
    }  # fmt: skip
    assert len(rows_of(folder / hard, "pos_doc")) == len(rows_of(folder / hard, "neg_doc")) == 40
    told = json.loads((made / "interleave_datasets/probabilities.json").read_text())
    assert told["datasets"] == ["easy", "hard"]
    assert told["probabilities"] == [0.5, 0.5]
    assert choose_rows("hard", 40, 18).tolist() == [
        number for number, query in enumerate(rows_of(folder / hard, "pos_doc"))
        if query in queries[4]
    ]  # fmt: skip


def test_other_trainers_read_texts_as_the_model_does(command: Command, folder: Path) -> None:
    ended = command(
        "stage=mixture", "mixture.formats=[flag_embedding]", "run_dir=mixture", "trainer.steps=9",
        'model.query_template="query: {text}"', 'model.passage_template="passage: {text}"',
    )  # fmt: skip
    assert ended.code == 0, ended.err
    for path in (folder / "mixture/flag_embedding").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            assert row["query"].startswith("query: ")
            assert all(text.startswith("passage: ") for text in row["pos"] + row["neg"])


REFUSED = {
    "transfer.most: 'hrd' is no configured domain or group; did you mean hard?": [
        "transfer.most={hrd: 0.5}"
    ],
    "transfer.drop: 'language/English' is no configured domain": [
        "transfer.drop=[language/English]"
    ],
    "transfer.keep and transfer.drop both name hard": [
        "transfer.keep=[hard]", "transfer.drop=[hard]"
    ],
    "no mixture keeps transfer.least.hard=0.7 and transfer.least.easy=0.5": [
        "transfer.least={hard: 0.7, easy: 0.5}"
    ],
    "transfer.rule=reweight needs transfer.weights=PATH": ["transfer.rule=reweight"],
    "and not both": [
        "transfer.rule=reweight", "transfer.weights=w.json", "transfer.given={easy: 1}"
    ],
    "transfer.budget=2 leaves no row of": ["transfer.budget=2"],
    "transfer.most_epochs=1 allows no more": ["transfer.budget=6", "transfer.most_epochs=1"],
    "transfer.rule=loss_reweight scales losses": [
        "stage=mixture", "transfer.rule=loss_reweight", "mixture.formats=[flag_embedding]",
        "transfer.given={easy: 1, middle: 1, hard: 1}",
    ],
    "mixture.formats[0]='flagembedding' must be": [
        "stage=mixture", "mixture.formats=[flagembedding]"
    ],
    "without a weight: ['hard']": [
        "transfer.rule=reweight", "transfer.given={easy: 1, middle: 0}"
    ],
    "transfer.given must hold a weight above 0": [
        "transfer.rule=reweight", "transfer.given={easy: 0, middle: 0, hard: 0}"
    ],
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused(command: Command, message: str) -> None:
    ended = command(*REFUSED[message])
    assert ended.code == 2, ended.err
    assert_one_message(ended, re.escape(message))
