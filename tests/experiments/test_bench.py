"""The comparison on a CPU, with a model of a few thousand parameters and few rows."""

import importlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from tdro_lightning.models.shapes import from_architecture

FOLDER = Path(__file__).parents[2] / "experiments" / "benchmarks"
SMALL = """\
dtype: float32
architecture: {model_type: qwen2, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1,
  num_attention_heads: 4, num_key_value_heads: 2, vocab_size: 2000}
"""
COMPARISONS = {  # the contender above and the one below, and which of them is ours
    "tDRO step / tDRO floor": 0,
    "fine-tuning step / fine-tuning floor": 0,
    "sentence-transformers step / fine-tuning step": 1,
    "sentence-transformers best step / fine-tuning step": 1,
    "sentence-transformers best deep step / deep fine-tuning step": 1,
    "padded tDRO step / tDRO step": 1,
    "sentence-transformers encoding / encoding": 1,
    "second run's step / first run's step": 0,
    "small, arcd: each text run / small, arcd: step": 1,
    "small, agnews: step / small, agnews: each text run": 0,
    "MiniLM, arcd: each text run / MiniLM, arcd: step": 1,
    "MiniLM, agnews: step / MiniLM, agnews: each text run": 0,
}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script beside its own modules, as `python bench.py` finds them."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("bench")
    sys.path.remove(str(FOLDER))


@pytest.fixture
def measure(script: ModuleType, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the script on a small model."""
    (tmp_path / "small.yaml").write_text(SMALL)

    def run(*arguments: str) -> dict[str, Any]:
        sizes = ("--tdro-batch=3", "--finetune-batch=4", "--texts=6", "--repeats=2")
        sizes += ("--deep-batch=2", "--repeated-batch=4")
        options = ("model", "lora-model", "deep-model", "minilm-model")
        models = (f"--{option}={tmp_path / 'small.yaml'}" for option in options)
        return script.main([*models, *sizes, *arguments])

    return run


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_no_shape_has_dropout(file: Path) -> None:
    """Contenders compute the same without; with it, two runs of one step differ by per cents."""
    architecture = OmegaConf.to_container(OmegaConf.load(file))["architecture"]
    config = from_architecture(architecture, "meta", torch.float32).config.to_dict()
    shares = {key: value for key, value in config.items() if "drop" in key and value is not None}
    assert shares
    assert not any(shares.values()), shares


@pytest.mark.nightly
def test_the_table_holds_every_comparison(
    measure: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "found.jsonl"
    found = measure("--no-peaks", "--encode-batch=64", f"--output={output}")
    assert json.loads(output.read_text()) == found
    assert [row["comparison"] for row in found["comparisons"]] == list(COMPARISONS)
    for row in found["comparisons"]:
        names = row["comparison"].split(" / ")
        above, below = (found["seconds"][name] for name in names)
        ours, other = (above, below) if COMPARISONS[row["comparison"]] == 0 else (below, above)
        assert len(ours) == len(other) == 2
        assert (row["seconds"], row["other_seconds"]) == (np.median(ours), np.median(other))
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        assert (row["lowest"], row["highest"]) == (min(ratios), max(ratios))
        assert row["peak_mb"] is None
    chosen = found["other_settings"]
    assert chosen["mini_batch_tokens"] in (128, 256, 512, 1024)
    assert chosen["deep_mini_batch_tokens"] in (256, 512)
    assert chosen["padded_batch"] in (8, 16, 32)
    assert chosen["encode_batch"] == 64
    assert all(0 <= share < 1 for share in found["padding"].values())
    assert set(found["difference"]) == {
        *("tDRO step", "fine-tuning step", "deep fine-tuning step", "encoding"),
        *("small, arcd: step", "small, agnews: step", "MiniLM, arcd: step", "MiniLM, agnews: step"),
    }
    assert max(found["difference"].values()) < 1e-2  # a loss is about a hundred
    assert found["versions"]["torch"] == torch.__version__
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| ") for line in printed) == 2 + len(COMPARISONS) + 2 + 5
    for name, counted in found["roofline"].items():
        assert name in found["seconds"]
        least = max(counted["flops_seconds"], counted["bytes_seconds"])
        assert least <= counted["roofline_seconds"] * (1 + 1e-9)
        assert counted["flops_seconds"] == pytest.approx(
            counted["flops"] / found["rates"]["single"]
        )
    for name in ("padding", "settings", "versions", "hardware", "threads", "commit"):
        assert any(line.startswith(f"* {name}") for line in printed)


def test_ours_and_theirs_compute_the_same_with_a_lora(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    given = ("--tdro-batch=3", "--finetune-batch=4", "--mini-batch-tokens=256", "--lora")
    model = f"--model={tmp_path / 'small.yaml'}"
    workbench, contenders = (importlib.import_module(n) for n in ("workbench", "contenders"))
    choice = script._choice(script._parser().parse_args([model, *given]))
    bench = workbench.Workbench(choice, tmp_path)
    for make in (contenders.tdro_case, contenders.tuning_case):
        ours, theirs = (compute() for compute in make(bench).checked)
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_unequal_results_are_refused(script: ModuleType) -> None:
    case = importlib.import_module("workbench").Case
    same, other = (case(checked=(lambda: 50.0, lambda v=v: v)) for v in (50.004, 50.006))
    assert script.agreeing(same, "step") == pytest.approx(0.004)
    with pytest.raises(ArithmeticError, match=r"step: ours computes 50\.0, the other 50\.006"):
        script.agreeing(other, "step")


@pytest.mark.parametrize("name", ["tDRO step", "sentence-transformers best step", "encoding"])
def test_memory_of_one_contender(measure: Callable[..., Any], name: str) -> None:
    set_by_the_parent = ("--mini-batch-tokens=256", "--encode-batch=64")
    assert measure(f"--peak={name}", *set_by_the_parent)["peak_mb"] >= 0


def test_every_setting_of_a_rival_is_tried_again(script: ModuleType) -> None:
    """A setting that is slow once by chance is not thrown out, nor one that is fast once taken."""
    rounds = importlib.import_module("rounds")
    delays = {1: iter([9, 1, 5, 5]), 2: iter([9, 3, 3]), 3: iter([0, 8, 8])}
    tried: list[int] = []
    clock = 0.0

    def work() -> None:
        nonlocal clock
        clock += next(delays[tried[-1]])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "now", lambda: clock)
        assert rounds.fastest(tried.append, work, (1, 2, 3)) == 2
    assert tried == [1, 1, 2, 3, 1, 2, 3, 1, 2, 3]


def test_the_padded_step_pads_a_mini_batch_to_its_own_longest(
    script: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    workbench, contenders = (importlib.import_module(n) for n in ("workbench", "contenders"))
    given = [f"--model={tmp_path / 'small.yaml'}", "--tdro-batch=3", "--padded-batch=5"]
    bench = workbench.Workbench(script._choice(script._parser().parse_args(given)), tmp_path)
    case = contenders.tdro_case(bench)
    lengths = case.lengths.split([3, 24])
    step = case.others["padded tDRO step"]
    for batches, known in zip((step._queries, step._passages), lengths, strict=True):
        parts = known.split(5)
        assert [mask.shape[1] for _, mask in batches] == [int(part.max()) for part in parts]
        assert [mask.sum().item() for _, mask in batches] == [int(part.sum()) for part in parts]
    ours, theirs = (compute() for compute in case.checked)
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_rates_are_work_over_seconds(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    rates, ticks = importlib.import_module("rates"), itertools.count()
    monkeypatch.setattr(importlib.import_module("rounds"), "now", lambda: next(ticks) / 2)
    found = rates.measured_rates("cpu", (10, 100))  # each call takes half a second
    assert found == rates.Rates(half=4000.0, single=4000.0, memory=1600.0)


def test_growth_is_what_the_work_adds(script: ModuleType) -> None:
    growth = importlib.import_module("rounds").growth
    added = growth(lambda: torch.ones(10**8).sum())  # more than the heap has free
    assert 380 < added < 430


def test_lengths_follow_the_papers_mix(script: ModuleType) -> None:
    texts = importlib.import_module("texts")
    random = np.random.default_rng(0)
    found = texts.lengths(random, 20_000, 120, 512)
    assert found.mean() == pytest.approx(115, abs=3)  # the longest are cut
    assert (found.min(), found.max()) == (3, 512)
    assert np.log(found).std() == pytest.approx(0.8, abs=0.03)
    tokenizer = texts.made_tokenizer(2000)
    made = texts.texts(random, texts.single_tokens(tokenizer), found[:50])
    assert tokenizer(made, 512).lengths.tolist() == found[:50].tolist()


def test_scaling_fits_lines(
    measure: Callable[..., Any], script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling = importlib.import_module("scaling")
    monkeypatch.setattr(scaling, "BATCHES", (4, 8))
    monkeypatch.setattr(scaling, "DOMAIN_COUNTS", (5, 10))
    monkeypatch.setattr(scaling, "QUERIES", 10)
    found = measure("--scaling", "--repeats=1")["scaling"]
    assert list(found["batch"]["seconds"]) == ["4", "8"]
    assert list(found["domains"]["seconds"]) == ["5", "10"]
    for fit in found.values():
        assert fit["largest_residual"] == pytest.approx(0, abs=1e-9)  # two points, one line
        assert all(len(taken) == 1 for taken in fit["seconds"].values())


def test_the_cost_of_our_checks(script: ModuleType) -> None:
    found = importlib.import_module("overhead").measured(batch_size=2, pairs=4)
    assert 0.5 < found["ratio"] < 2
    assert 0 < found["spent"] < 0.2
    assert found["save megabytes"] > 1
