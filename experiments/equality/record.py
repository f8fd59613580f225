"""What seeded runs compute, as digests that a later version of the code must give again.

    python experiments/equality/record.py before.json                 (writes)
    python experiments/equality/record.py after.json --like before.json     (and compares)

All runs use one thread a process. Digests are equal on one machine and with the same versions of
the packages only; the file says which those were.
"""

import argparse
import csv
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

STEPS = "trainer.steps=20"
DEMO = ("chain_dir=demo", STEPS, "trainer.threads=1", "logger.wandb=disabled")
LORA = ("++model.lora.r=4", "++model.lora.alpha=8", "++model.lora.dropout=0.1")
TWO = ("strategy=ddp", "trainer.devices=2")
SHARDED = ("strategy=fsdp", "trainer.devices=2")
CACHED = ("trainer.chunk_tokens=1024", "trainer.kept_tokens=0")
RUNS: dict[str, tuple[str, ...]] = {  # run folder: experiment and overrides
    "demo": ("demo", *DEMO[1:]),
    "tdro_cached": ("demo/tdro", *DEMO, *CACHED, "module.reference_cache=null"),
    "tdro_two": ("demo/tdro", *DEMO, *TWO, "module.reference_cache=null"),
    "tdro_sharded": ("demo/tdro", *DEMO, *SHARDED, "module.reference_cache=null"),
    "tdro_lora": ("demo/tdro", *DEMO, *LORA, *CACHED, "module.reference_cache=null"),
    "group_dro": ("demo/tdro", *DEMO, "module=group_dro", "module.temperature=0.02"),
    "doremi": ("demo/tdro", *DEMO, "module=doremi", "module.temperature=0.02"),
    "bf16": ("demo/tdro", *DEMO, "trainer.precision=bf16-mixed", "module.reference_cache=null"),
    "finetune_lora": ("demo/finetune_top", *DEMO, *LORA),
    "finetune_lora_two": ("demo/finetune_top", *DEMO, *LORA, *TWO),
    "finetune_two": ("demo/finetune_reweight", *DEMO, *TWO),
    "finetune_sharded": ("demo/finetune_reweight", *DEMO, *SHARDED, *CACHED),
    "loss_reweight": ("demo/finetune_reweight", *DEMO, "transfer.rule=loss_reweight"),
    "mine_dense": (
        "mine_dense", *DEMO[:3], "model=tiny", "domains=python_docs",
        "mine.input=demo/harvest/train", "mine.encoder=demo/reference/encoder",
    ),
    "decontaminate": (
        "decontaminate_tdro_mini", *DEMO[:3], "domains=python_docs", "benchmark=python_docs",
    ),
}  # fmt: skip


def main() -> None:
    """Run everything, write the digests, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--like", type=Path, help="a file of an earlier version")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, (experiment, *overrides) in RUNS.items():
            print(name, flush=True)
            command = [sys.executable, "-m", "tdro_lightning", f"+experiment={experiment}"]
            ended = subprocess.run(
                [*command, *overrides, f"run_dir={name}"],
                cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if ended.returncode:
                sys.exit(f"{name}: exit code {ended.returncode}\n{ended.stderr[-4000:]}")
        found = {name: digests(Path(folder) / name) for name in RUNS}
    packages = {name: version(name) for name in ("torch", "transformers", "lightning", "peft")}
    machine = {"threads": 1, "instructions": torch.backends.cpu.get_cpu_capability()}
    content = {"packages": packages, "machine": machine, "runs": found}
    given.output.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    print(f"{sum(map(len, found.values()))} digests of {len(found)} runs: {given.output}")
    if given.like is not None:
        differ = compared(json.loads(given.like.read_text())["runs"], found)
        print("\n".join(differ) or "all are equal")
        sys.exit(len(differ) > 0)


def digests(folder: Path) -> dict[str, str]:
    """A digest of everything computed in a run folder, by path and part."""
    found: dict[str, str] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.name == "history.csv":
            found[name] = digest(without_speed(path))
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - not a dictionary
                    tensor = tensors.get_tensor(key)
                    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                    found[f"{name}: {key}"] = digest([str(tensor.dtype), list(tensor.shape)], raw)
        elif path.name in ("weights.json", "mixture.json"):
            content = json.loads(path.read_text())
            kinds = ("domain_weights", "mean_weights", "ema_weights", "size", "epoch")
            found |= {f"{name}: {kind}": digest(content.get(kind)) for kind in kinds}
        elif path.name in ("metrics.json", "data_usage.json"):
            found[name] = digest(without_times(json.loads(path.read_text())))
        elif "per_query" in path.parts:
            found[name] = digest(json.loads(path.read_text()))
        elif path.name.endswith(".jsonl.gz"):
            found[name] = digest(None, gzip.decompress(path.read_bytes()))
    return found


def without_speed(path: Path) -> list[list[str]]:
    """Rows of a history, without the metrics that the speed of the machine decides."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.reader(stream) if not row[1].startswith("speed/")]


def without_times(content: Any) -> Any:
    """The same content without seconds and paths."""
    if isinstance(content, dict):
        left_out = ("seconds", "sha256", "checksum", "path", "inputs", "versions")
        return {
            key: without_times(value)
            for key, value in content.items()
            if not any(word in key for word in left_out)
        }
    return content


def digest(content: Any, raw: bytes = b"") -> str:
    """The first 16 digits of the SHA-256 of some content and bytes."""
    written = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(written + raw).hexdigest()[:16]


def compared(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[str]:
    """What is missing, new or different, a line each."""
    lines = []
    for run in sorted(before.keys() | after.keys()):
        then, now = before.get(run, {}), after.get(run, {})
        for key in sorted(then.keys() | now.keys()):
            if then.get(key) != now.get(key):
                lines.append(f"{run}/{key}: {then.get(key)} before, {now.get(key)} now")
    return lines


if __name__ == "__main__":
    main()
