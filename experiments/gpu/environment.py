"""What is installed, what can be imported, and what the GPU reaches."""

import importlib.metadata
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from probe import Probe

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    *("torch", "lightning", "transformers", "peft", "numpy", "datasets", "omegaconf"),
    *("hydra-core", "bm25s", "PyStemmer", "datasketch", "faiss-cpu", "ir-measures", "filelock"),
    *("wandb", "sentence-transformers", "flash-attn", "kernels", "triton", "gguf"),
)
MODULES = ("tdro_lightning.assembly.fit", "contenders")  # whole commands, and the rivals
QUERY = "name,memory.total,driver_version,clocks.sm,clocks.max.sm,power.limit"


def measure(probe: Probe, name: str) -> None:
    """Record packages, imports and rates."""
    probe.record("python", sys.version)
    probe.record("packages", {package: _version(package) for package in PACKAGES})
    if not probe.dry:
        command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
        probe.attempt("nvidia-smi", lambda: subprocess.check_output(command, text=True).strip())
    probe.attempt("rates", lambda: _rates(probe))
    for module in () if probe.dry else MODULES:
        probe.attempt(f"import {module}", lambda module=module: _imported(module))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _imported(module: str) -> str:
    """`imported`, or the last line of why not."""
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'experiments/benchmarks')]}; "
    done = subprocess.run(
        [sys.executable, "-c", code + f"import {module}"], capture_output=True, text=True
    )
    return "imported" if done.returncode == 0 else done.stderr.strip().splitlines()[-1][:300]


def _rates(probe: Probe) -> dict[str, float]:
    """FLOPs of matrix products in bfloat16 and float32 and bytes of a copy, a second."""
    from rates import measured_rates

    return asdict(measured_rates(probe.device, (64, 2**16) if probe.dry else None))
