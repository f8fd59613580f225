"""Where the time of one step goes: slowest kernels, launches, copies and waits of the host."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from probe import Probe
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from variants import TINY

TIMED, WATCHED, PROFILED = 1, 2, 3  # steps; the first one warms up
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
CASES: dict[str, dict[str, Any]] = {
    "finetune, lora": {"stage": "finetune"},
    "tdro, lora": {"stage": "tdro"},
    "tdro, lora, nothing kept": {"stage": "tdro", "kept_tokens": 0},
    "finetune, full": {"stage": "finetune", "full": True},
}


class Watch(Callback):
    """Times one step, notes where the next one waits for the GPU, and profiles the one after.

    Args:
        probe: knows the device.

    Attributes:
        found: what was seen.
    """

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.found: dict[str, Any] = {}
        activities = [ProfilerActivity.CPU] + ([] if probe.dry else [ProfilerActivity.CUDA])
        self._profile = profile(activities=activities)
        self._caught = warnings.catch_warnings(record=True)
        self._waits: list[warnings.WarningMessage] = []
        self._began = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to look."""
        from steps import now

        if batch_idx == WATCHED:
            self._waits = self._caught.__enter__() or []
            warnings.simplefilter("always")
            self._debug("warn")
        if batch_idx == PROFILED:
            self._profile.__enter__()
        self._began = now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note what was seen."""
        from steps import now

        if batch_idx == TIMED:
            self.found["step_seconds"] = now() - self._began
        if batch_idx == WATCHED:
            self._debug("default")
            self._caught.__exit__(None, None, None)
            places = Counter(
                f"{Path(one.filename).name}:{one.lineno}"
                for one in self._waits
                if "synchroniz" in str(one.message)
            )
            self.found |= {"waits": places.total(), "wait_places": places.most_common(15)}
        if batch_idx == PROFILED:
            self.probe.wait()
            self._profile.__exit__(None, None, None)
            self.found |= _kernels(self._profile.key_averages(), dry=self.probe.dry)

    def _debug(self, mode: str) -> None:
        if not self.probe.dry:
            torch.cuda.set_sync_debug_mode(mode)


def _kernels(events: Any, *, dry: bool) -> dict[str, Any]:
    """Seconds in kernels, the slowest of them in milliseconds, launches and copies."""
    field = "self_cpu_time_total" if dry else "self_device_time_total"
    on_device = [e for e in events if dry or str(e.device_type).endswith("CUDA")]
    slowest = sorted(on_device, key=lambda e: getattr(e, field), reverse=True)
    return {
        "kernel_seconds": sum(getattr(e, field) for e in on_device) / 1e6,
        "launches": sum(e.count for e in events if e.key in LAUNCHES),
        "copies": {e.key: e.count for e in events if "Memcpy" in e.key or "Synchronize" in e.key},
        "slowest": [[e.key[:110], e.count, getattr(e, field) / 1e3] for e in slowest[:25]],
    }


def measure(probe: Probe, name: str) -> None:
    """Record each case."""
    for title, case in list(CASES.items())[: 2 if probe.dry else None]:
        probe.attempt(title, lambda case=case: _profiled(probe, **case))


def _profiled(probe: Probe, stage: str, **changes: Any) -> dict[str, Any]:
    from steps import NEGATIVES, Settings, batches, encoder, module, shape, trainer

    size: dict[str, Any] = {"batch": 64 if stage == "tdro" else 128}
    model = {"dtype": "float32", "architecture": TINY} if probe.dry else shape("qwen05b")
    if probe.dry:
        size = {"batch": 25, "query_tokens": 4, "passage_tokens": 8}
    settings = Settings(steps=4, warmup=0, device=probe.device, **size, **changes)
    made = module(stage, settings, model, encoder(settings, model, 0, trained=True))
    rows = batches(stage, settings, NEGATIVES[stage], model["architecture"]["vocab_size"])
    watch = Watch(probe)
    trainer(settings, len(rows), watch).fit(made, DataLoader(rows, batch_size=None))
    tokens, step = len(rows[TIMED].texts.ids), watch.found["step_seconds"]
    busy = watch.found["kernel_seconds"] / step
    return watch.found | {"tokens": tokens, "us_token": step / tokens * 1e6, "busy": busy}
