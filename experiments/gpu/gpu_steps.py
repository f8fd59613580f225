"""Whole steps at Qwen1.5-0.5B's shape, by the script of the benchmarks."""

import json
from pathlib import Path

from probe import Probe

CASES = {  # the command line of gpu_step.py
    "steps_finetune": "--stage=finetune",
    "steps_tdro": "--stage=tdro",
    "steps_kept": "--stage=finetune --chunk-tokens=32768 --kept-tokens=65536"
    " --activation-checkpointing",
    "steps_full": "--stage=finetune --full",
    "steps_small_chunks": "--stage=finetune --chunk-tokens=4096 --kept-tokens=4096",
    "steps_large_batch": "--stage=finetune --batch=2048",
}
TINY = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 50}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2}


def measure(probe: Probe, name: str) -> None:
    """Record the script's line of JSON."""
    probe.attempt(name, lambda: _step(probe, CASES[name].split()))


def _step(probe: Probe, given: list[str]) -> dict[str, object]:
    import gpu_step

    given = [*given, "--steps=1" if "--batch=2048" in given else "--steps=2", "--warmup=1"]
    if probe.dry:
        model: Path = probe.file.with_suffix(".model.yaml")
        tiny = {"dtype": "float32", "architecture": {"model_type": "qwen2", **TINY}}
        model.write_text(json.dumps(tiny), encoding="utf-8")
        given += ["--device=cpu", "--precision=32-true", f"--model={model}", "--batch=50"]
        given += ["--query-tokens=4", "--passage-tokens=8", "--peak-tflops=1"]
    (found,) = gpu_step.main(given)
    return found
