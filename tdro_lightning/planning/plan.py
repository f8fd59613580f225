"""What a training reads, takes and costs; weights are not even downloaded."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tdro_lightning.assembly.modules import reference_path
from tdro_lightning.config.schema import Config
from tdro_lightning.console.durations import format_duration
from tdro_lightning.console.output import tell
from tdro_lightning.models.last_layer import last_layer
from tdro_lightning.planning.cost import Cost, cost_lines, estimate_cost, format_hours
from tdro_lightning.planning.data import (
    data_table,
    domain_shares,
    find_local_data,
    histogram,
    model_files,
    step_tokens,
)
from tdro_lightning.planning.model import (
    caption,
    case_values,
    headline,
    memory_cases,
    memory_table,
    model_shape,
    random_model,
    with_lora,
)
from tdro_lightning.planning.trial import TrialRun, run_trial
from tdro_lightning.report.tables import terminal_table
from tdro_lightning.runs.inputs import require_intact_training
from tdro_lightning.training.callbacks.throughput import flops_per_token


def total_of(plans: dict[str, Any]) -> dict[str, float | None]:
    """Cost of all training steps of a workflow, which it prints."""
    here = [plan["here"]["seconds"] for plan in plans.values() if plan["here"] is not None]
    total = {
        "gpu_hours": sum(p["cost"]["hours"] * p["cost"]["devices"] for p in plans.values()),
        "price": sum(plan["cost"]["price"] for plan in plans.values()),
        "seconds_here": sum(here) if here and len(here) == len(plans) else None,
    }
    tell(
        f"Training of all {len(plans)} steps: {format_hours(total['gpu_hours'])} of GPU time, "
        f"{total['price']:.2f} in money"
        + (
            ""
            if total["seconds_here"] is None
            else f"; here {format_duration(total['seconds_here'])}"
        )
    )
    return total


def plan_training(config: Config) -> dict[str, Any]:
    """Print what a training reads, takes and costs, and return the numbers.

    Raises:
        ConfigError: settings that cannot be, or an unknown GPU.
        DataError: a row, a weights file or a tokenizer that a run would refuse.
    """
    require_intact_training(config)
    backbone = with_lora(random_model(config.model, "meta"), config.model)
    model = model_shape(backbone)
    found = find_local_data(config)
    domains = domain_shares(config, found)
    last = last_layer(backbone) if config.model.pooling == "last" else None
    pooled_only = [last.feed_forward] if last else []
    references = 0 if reference_path(config) is None else 1
    flops = flops_per_token(backbone, references, pooled_only)
    cost = estimate_cost(config, flops, step_tokens(config, domains))
    memory = list(memory_cases(config, model))
    probability = {part.name: part.probability for part in domains}
    trial = run_trial(config, found, flops * cost.tokens, probability)
    here = _here(config, cost, trial)
    notes = [*found.notes, *_not_here(config)]
    tell(headline(config, model))
    tell(terminal_table(data_table(config, domains)) + "\n")
    tell(terminal_table(memory_table(memory)))
    tell(caption(config) + "\n")
    tell(cost_lines(config, cost, flops) + _trial_line(trial, here))
    for note in notes:
        tell(f"Not on this machine: {note}")
    limit = config.data.passage_tokens
    return {
        "model": config.model.path,
        "module": config.module.kind,
        "shape": asdict(model),
        "notes": notes,
        "domains": {
            part.name: {
                "rows": part.rows,
                "passages": part.passages,
                "drawn": part.drawn,
                "epochs": part.epochs,
                "probability": part.probability,
                "passage_lengths": histogram(part.texts, limit) if found.domains else None,
            }
            for part in domains
        },
        "steps": config.trainer.steps,
        "cases": [case_values(case) for case in memory],
        "flops_per_token": flops,
        "cost": asdict(cost),
        "trial": asdict(trial),
        "here": here,
    }


def _here(config: Config, cost: Cost, trial: TrialRun) -> dict[str, float | None] | None:
    """The whole run on this machine, where whole steps were tried."""
    if not trial.whole:
        return None
    seconds = config.trainer.steps * cost.tokens * trial.seconds / trial.tokens
    return {"seconds": seconds, "process_gb": trial.process_gb}


def _not_here(config: Config) -> list[str]:
    notes = []
    path, reference = config.model.path, getattr(config.module, "reference", None)
    if model_files(path, "model.safetensors") is None:
        notes.append(f"model.path={path}: weights; a run loads or downloads them")
    if reference == "any":
        notes.append("module.reference is not set: counted as one like the proxy")
    elif reference is not None and not Path(reference).is_dir():
        notes.append(f"module.reference={reference}: counted as one like the proxy")
    return notes


def _trial_line(trial: TrialRun, here: dict[str, float | None] | None) -> str:
    if here is None or here["seconds"] is None:
        return "Tried: one step of a small model of this kind, on made-up texts"
    memory = here["process_gb"]
    return (
        f"Tried: {trial.steps + 1} whole steps with random weights. All of them on this machine: "
        f"about {format_duration(here['seconds'])}"
        + ("" if memory is None else f", {memory:.2f} GB of memory for the process")
        + "; start-up and evaluation come on top"
    )
