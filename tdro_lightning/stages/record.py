"""`run.json`: what ran, from what, on what, and whether it finished."""

import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tdro_lightning import __version__
from tdro_lightning.errors import DataError, Stopped
from tdro_lightning.files import read_json, remove_orphans, write_json
from tdro_lightning.schema import Config
from tdro_lightning.stages.inputs import inputs

RECORD = "run.json"
WITHOUT_EFFECT = {  # on results
    "trainer": ("devices", "kept_tokens", "log_every", "checkpoint_every", "resume", "max_hours"),
    "module": ("reference_cache",),
    "evaluate": ("embeddings",),
}
PACKAGES = ("torch", "lightning", "transformers", "peft", "datasets", "hydra-core", "numpy")


@contextmanager
def recorded(config: Config, command: str) -> Iterator[None]:
    """Write the run's record at its start and again at its end, whatever the end is.

    Raises:
        DataError: an input is missing; nothing has run then.
    """
    folder = Path(config.run_dir)
    began, busy = time.monotonic(), time.process_time()
    remove_orphans(folder)
    previous = read_json(folder / RECORD)["status"] if (folder / RECORD).is_file() else None
    record: dict[str, Any] = {
        "name": config.name,
        "stage": config.stage,
        "status": "running",
        "previous": previous,
        "command": command,
        "seed": config.seed,
        "git_commit": git_commit(),
        "versions": {"tdro-lightning": __version__, **{p: version(p) for p in PACKAGES}},
        "hardware": hardware(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": inputs(config),
        "config": asdict(config),
    }
    write_json(folder / RECORD, record)
    status = "failed"
    try:
        yield
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    except Stopped as stopped:
        status = stopped.status
        raise
    finally:
        outputs = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
        record |= {
            "status": status,
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(time.process_time() - busy, 1),
            "outputs": [name for name in outputs if name != RECORD],
        }
        write_json(folder / RECORD, record)


def is_finished(config: Config) -> bool:
    """Whether the run folder holds this very run, finished, inputs and outputs unchanged."""
    folder = Path(config.run_dir)
    if not (folder / RECORD).is_file():
        return False
    record = read_json(folder / RECORD)
    try:
        unchanged = record["inputs"] == inputs(config)
    except DataError:
        return False
    return (
        unchanged
        and record["status"] == "finished"
        and record["versions"]["tdro-lightning"] == __version__
        and _relevant(record["config"]) == _relevant(asdict(config))
        and all((folder / name).exists() for name in record["outputs"])
    )


def _relevant(config: dict[str, Any]) -> dict[str, Any]:
    """The sections of the configuration that the stage's results depend on."""
    sections = {
        "harvest": ("harvest",),
        "import": ("source",),
        "mine": ("mine",),
        "decontaminate": ("decontaminate", "domains", "benchmark"),
        "validate": ("domains", "data"),
        "init_model": ("domains", "model"),
        "evaluate": ("evaluate", "benchmark", "model", "data"),
        "simulate": ("simulate",),
        "export": ("export", "model", "data"),
        "fit": ("domains", "model", "data", "module", "transfer", "optimiser", "trainer")
        + ("benchmark",),
    }[config["stage"]]
    if config["stage"] == "mine" and (config["mine"]["encoder"] or config["mine"]["teacher"]):
        sections += ("model", "data", "domains")
    relevant = {key: config[key] for key in ("stage", "seed", *sections)}
    for section in WITHOUT_EFFECT.keys() & relevant.keys():
        ignored = WITHOUT_EFFECT[section]
        relevant[section] = {k: v for k, v in config[section].items() if k not in ignored}
    return relevant


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Full key and value of every leaf of a configuration; a list is a leaf."""
    if not isinstance(content, dict):
        return {prefix.removesuffix("."): content}
    return {k: v for key in content for k, v in flat(content[key], f"{prefix}{key}.").items()}


def git_commit() -> str | None:
    """Commit of the checkout the package runs from, `-dirty` with local changes; None elsewhere."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def hardware() -> dict[str, Any]:
    """Processor, cores and GPUs of this machine."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "cores": os.cpu_count(), "gpus": gpus}
