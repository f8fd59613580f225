"""Training runs side by side: what was set differently, and where each ended."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from tdro_lightning.report.domains import entropy
from tdro_lightning.report.runs import Run
from tdro_lightning.report.svg import short
from tdro_lightning.report.tables import NOTHING, Column, Table, cells

# Names, places and what does not belong to a training run.
NOT_SETTINGS = ("name", "run_dir", "chain_dir", "description", "stage", "chain", "logger", "seed")


def run_table(runs: Sequence[Run]) -> Table | None:
    """A row a training run; None where there is none or one."""
    trained = [run for run in runs if run.history]
    if len(trained) < 2:
        return None
    settings = [_settings(run.config) for run in trained]
    known = list(dict.fromkeys(key for one in settings for key in one))
    differing = [key for key in known if len({str(s[key]) for s in settings if key in s}) > 1]
    return Table(
        "Training runs",
        "Loss is the mean over the last tenth of the steps; effective domains is the exponential "
        "of the last weights' entropy. Then every setting in which runs that have it differ.",
        (
            Column("Run", numeric=False),
            *(Column("Seed"), Column("Minutes")),
            *(Column("Loss", "at the end"), Column("Effective domains")),
            *(Column(key.rpartition(".")[2], key.rpartition(".")[0]) for key in differing),
        ),
        tuple(
            cells(
                [
                    run.name,
                    NOTHING if run.seed is None else str(run.seed),
                    NOTHING if run.seconds is None else f"{run.seconds / 60:.1f}",
                    last_loss(run),
                    effective_domains(run),
                    *(short(str(own[key]), 28) if key in own else NOTHING for key in differing),
                ]
            )
            for run, own in zip(trained, settings, strict=True)
        ),
    )


def last_loss(run: Run) -> str:
    """Mean of the loss over the last tenth of the steps, as text."""
    if "loss" not in run.history:
        return NOTHING
    values = run.history["loss"].values
    return f"{fmean(values[-max(1, len(values) // 10) :]):.3f}"


def effective_domains(run: Run) -> str:
    """Exponential of the last weights' entropy, as text."""
    return f"{math.exp(entropy([w.last for w in run.weights])):.1f}" if run.weights else NOTHING


def _settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted key, without those of the domains' catalogue."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if not prefix and key in NOT_SETTINGS:
            continue
        if isinstance(value, Mapping):
            if key != "catalogue":
                found |= _settings(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = value
    return found
