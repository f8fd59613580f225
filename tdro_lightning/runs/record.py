"""`run.json`: what ran, from what, on what, and whether it finished."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tdro_lightning import __version__
from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Stage
from tdro_lightning.errors import DataError, ResourceError
from tdro_lightning.files import (
    CHECKSUM,
    read_checked_json,
    read_json,
    remove_orphans,
    write_checked_json,
)
from tdro_lightning.records.outputs import (
    BEST_STEP,
    RECORD,
    RESULTS_FORMAT,
    clear_outputs,
    damaged_outputs,
    describe_outputs,
)
from tdro_lightning.runs.inputs import BASE, describe_inputs, with_commits
from tdro_lightning.runs.outcome import run_outcome

WITHOUT_EFFECT = {  # on results
    "trainer": (
        *("devices", "threads", "kept_tokens", "log_every"),
        *("checkpoint_every", "resume", "max_hours"),
    ),
    "model": ("architecture",),  # of a plan alone
    "module": ("reference_cache",),
    "evaluate": ("embeddings",),
}
ADDED = {  # keys that a version has added, with what earlier versions did
    "data.small_domains": "smaller_batch",
    "evaluate.data_limits": False,
    "evaluate.pruning": None,
    "model.head": "dense",
    "model.normalized": True,
    "model.sparse.scale": "one",
    "model.sparse.pooled": "all",
    "model.sparse.trained": False,
    "module.loss": "infonce",
    "module.sparsity": None,
    "module.mask_duplicates": False,
    "optimiser.schedule": "cosine",
    "transfer.alpha": 0.5,
    "transfer.cap": 10_000,
    "transfer.epochs": 4.0,
    "transfer.keep": [],
    "transfer.drop": [],
}
PACKAGES = ("torch", "lightning", "transformers", "peft", "datasets", "hydra-core", "numpy")


@contextmanager
def run_record(
    stage: Stage, config: Config, command: str, warnings: Sequence[str] = ()
) -> Iterator[None]:
    """Write the run's record at its start and again at its end, whatever the end is.

    Args:
        stage: that runs.
        config: of the run.
        command: that started it.
        warnings: what the run warns of until its end.

    Raises:
        DataError: an input is missing; nothing has run then.
    """
    folder = Path(config.run_dir)
    began, busy = time.monotonic(), time.process_time()
    remove_orphans(folder)
    inputs = describe_inputs(stage, config)
    before = read_checked_json(folder / RECORD) if (folder / RECORD).is_file() else None
    if before is not None and not (stage.replaces_own and before["stage"] == stage.name):
        resumed = ("must",) if before["status"] == "finished" else ("must", "auto")
        clear_outputs(folder, before, resume=config.trainer.resume in resumed)
    record: dict[str, Any] = {
        "name": config.name,
        "stage": config.stage,
        "status": "running",
        "previous": before and before["status"],
        "command": command,
        "seed": config.seed,
        "git_commit": git_commit(),
        "format": RESULTS_FORMAT,
        "versions": {"tdro-lightning": __version__, **{p: version(p) for p in PACKAGES}},
        "hardware": hardware(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": inputs,
        "config": asdict(config),
        "results": list(stage.outputs),
        "outputs": {},
    }
    write_checked_json(folder / RECORD, record)
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        status = run_outcome(error).status
        if not (folder / RECORD).is_file():
            raise ResourceError(f"run_dir={folder} was removed during the run, and its results too")
        record |= {
            "status": status,
            "inputs": with_commits(inputs),
            "warnings": [*warnings],
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(time.process_time() - busy, 1),
            "outputs": describe_outputs(folder, stage.outputs) if status == "finished" else {},
        }
        if status == "finished" and (folder / BEST_STEP).is_file():
            record["best_step"] = read_json(folder / BEST_STEP)
        write_checked_json(folder / RECORD, record)


def reason_to_run(stage: Stage, config: Config) -> str | None:
    """Why the run folder does not hold this very run, finished and unchanged; None where it does.

    An empty string says that nothing has run there yet, or that the stage runs every time.
    """
    folder = Path(config.run_dir)
    if stage.runs_every_time or not (folder / RECORD).is_file():
        return ""
    record = read_checked_json(folder / RECORD)
    if record["stage"] != config.stage:
        return f"stage changed from {record['stage']} to {config.stage}"
    if record["status"] != "finished":
        return f"it is not finished (status: {record['status']})"
    if record.get("format", 1) != RESULTS_FORMAT:
        return f"its results have format {record['format']}, this version writes {RESULTS_FORMAT}"
    contents = (_relevant(stage, config, c) for c in (record["config"], asdict(config)))
    for key, then, now in changed_keys(*contents):
        return f"{key} changed from {then} to {now}"
    try:
        recorded, inputs = record["inputs"], describe_inputs(stage, config)
    except DataError as error:
        return str(error)
    if CHECKSUM not in record:  # as version 0.1.0 wrote it, without the bases of adapters
        inputs = {k: v for k, v in inputs.items() if k in recorded or not k.startswith(BASE)}
    for label in sorted(recorded.keys() | inputs.keys()):
        then, now = recorded.get(label, {}), inputs.get(label, {})
        if "commit" not in then:  # it was not in the cache yet, or the record is of version 0.1.0
            now = {key: value for key, value in now.items() if key != "commit"}
        if then != now:
            return f"input {label} changed"
    return next(damaged_outputs(folder, record), None)


def _relevant(stage: Stage, config: Config, content: dict[str, Any]) -> dict[str, Any]:
    """The sections of a configuration that the stage's results depend on."""
    # A record of an earlier version lacks sections that came later, and none was set then.
    relevant = {key: content.get(key) for key in ("stage", "seed", *stage.settings(config))}
    for section in WITHOUT_EFFECT.keys() & relevant.keys():
        ignored = WITHOUT_EFFECT[section]
        relevant[section] = {k: v for k, v in content[section].items() if k not in ignored}
    return relevant


def with_added_keys(before: dict[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """A flat configuration of an earlier version, with the keys of `after` that it did not have."""
    return {key: value for key, value in ADDED.items() if key in after} | before


def changed_keys(before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    """Full key, earlier and present value of each leaf in which two configurations differ."""
    now = flatten(after)
    then = with_added_keys(flatten(before), now)
    keys = sorted(then.keys() | now.keys())
    return [(k, then.get(k), now.get(k)) for k in keys if then.get(k) != now.get(k)]


def flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    """Full key and value of every leaf of a configuration; a list is a leaf."""
    if not isinstance(content, dict):
        return {prefix.removesuffix("."): content}
    return {k: v for key in content for k, v in flatten(content[key], f"{prefix}{key}.").items()}


def git_commit() -> str | None:
    """Commit of the checkout the package runs from, `-dirty` with local changes; None elsewhere."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    return described.stdout.strip() or None


def hardware() -> dict[str, Any]:
    """Processor, cores, threads of a process, and GPUs of this machine.

    Sums are rounded in another order with other threads, or on a processor with other instructions.
    """
    import torch

    return {
        "machine": platform.machine(),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def processor() -> str:
    """Name of the processor's model, where the system says it."""
    described = Path("/proc/cpuinfo")
    text = described.read_text(encoding="utf-8") if described.is_file() else ""
    name = re.search(r"^model name\s*:[ \t]*(.*?)[ \t]*$", text, re.MULTILINE)
    return name[1] if name else platform.processor() or platform.machine()
