"""The benchmark script on a CPU, with a model of a few thousand parameters."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tdro_lightning.errors import ConfigError
from tests.experiments.conftest import EXPERIMENTS

SCRIPT = EXPERIMENTS / "benchmarks" / "gpu_step.py"
SMALL = """\
dtype: bfloat16
architecture: {model_type: qwen2, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2,
  num_attention_heads: 4, num_key_value_heads: 2, vocab_size: 50}
"""
MLP = 3 * 16 * 24  # of the last layer only the pooled tokens pass
LAYER = 2 * 16 * 16 + 2 * 16 * 8 + MLP + 2 * 16 + (16 + 2 * 8)
SIZES = ("--batch=50", "--query-tokens=4", "--passage-tokens=8", "--steps=2", "--warmup=1")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The script beside its own modules, as `python gpu_step.py` finds them."""
    sys.path.insert(0, str(SCRIPT.parent))
    yield importlib.import_module("gpu_step")
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture
def measure(script: ModuleType, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Run the script on a small model."""
    (tmp_path / "small.yaml").write_text(SMALL)

    def run(*arguments: str) -> list[dict[str, Any]]:
        return script.main(
            [f"--model={tmp_path / 'small.yaml'}", "--device=cpu", *SIZES, *arguments]
        )

    return run


def test_both_stages_are_measured(
    measure: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "steps.jsonl"
    tdro, finetune = measure("--peak-tflops=0.001", f"--output={output}")
    for result, stage, negatives, passes in ((tdro, "tdro", 7, 6), (finetune, "finetune", 1, 4)):
        assert result["stage"] == stage
        assert result["settings"]["negatives"] == negatives
        assert len(result["all_step_seconds"]) == 2
        seconds = sum(result["all_step_seconds"]) / 2
        assert result["step_seconds"] == pytest.approx(seconds, abs=2e-4)
        passages = 50 * (1 + negatives) / seconds
        assert result["passages_per_second"] == pytest.approx(passages, rel=0.02)
        assert result["flops_per_token"] == passes * (2 * LAYER - MLP + 16)
        flops = result["flops_per_token"] * result["tokens_per_second"]
        assert result["mfu"] == pytest.approx(flops / 1e9, abs=1e-4)
        assert result["peak_gb"] > 0
    printed = capsys.readouterr().out
    assert "passages/s" in printed
    lines = output.read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == ["tdro", "finetune"]
    assert all(line in printed for line in lines)


def test_all_weights_with_checkpointing_and_chunks(measure: Callable[..., Any]) -> None:
    changes = ("--full", "--activation-checkpointing", "--chunk-tokens=100", "--kept-tokens=0")
    (result,) = measure("--stage=finetune", "--precision=32-true", *changes)
    assert result["mfu"] is None  # of a CPU nobody knows the peak
    assert result["settings"]["full"]
    assert result["flops_per_token"] == 6 * (2 * LAYER - MLP + 16)


def test_texts_lie_between_a_quarter_of_the_limit_and_the_limit(script: ModuleType) -> None:
    settings = script.Settings(
        **vars(
            script._parser().parse_args(["--query-tokens=8", "--passage-tokens=40", "--steps=1"])
        )
    )
    one, same = (script.batches("tdro", settings, 2, 50) for _ in range(2))
    assert len(one) == 3  # with two of warm-up
    batch = one[0]
    assert len(batch) == 256
    assert len(batch.passages) == 3 * 256
    assert (int(batch.queries.lengths.min()), int(batch.queries.lengths.max())) == (2, 8)
    assert (int(batch.passages.lengths.min()), int(batch.passages.lengths.max())) == (10, 40)
    assert sorted(set(batch.domain.tolist())) == list(range(25))
    assert torch.equal(batch.passages.ids, same[0].passages.ids)
    assert not torch.equal(batch.queries.lengths, one[1].queries.lengths)
    assert set(script.batches("finetune", settings, 2, 50)[0].domain.tolist()) == {0}


def test_a_model_without_a_shape_is_refused(script: ModuleType) -> None:
    with pytest.raises(ConfigError, match="--model minilm: .* has no section `architecture`"):
        script.shape("minilm")


def test_a_missing_gpu_is_named(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        script.main([])
    assert "--device cuda: there is no GPU here; give --device cpu" in capsys.readouterr().err
