"""What a workflow takes: a row for each training and evaluation, and the sum."""

from collections.abc import Mapping
from typing import Any

from tdro_lightning.config.schema import Config
from tdro_lightning.console.durations import format_duration
from tdro_lightning.files import GIGA
from tdro_lightning.planning.cost import format_hours
from tdro_lightning.planning.plan import RunPlan, plan_evaluation, plan_training
from tdro_lightning.report.tables import NOTHING, Column, Table, cells, terminal_table

SHOWN = 6  # plans that are shown whole; the numbers of more are in a table and in the file

# What is planned of each kind of stage.
PLANS = {"fit": plan_training, "evaluate": plan_evaluation}


def plan_step(config: Config, known: dict[str, RunPlan]) -> RunPlan:
    """The plan of a training or an evaluation; equal evaluations are counted once.

    Args:
        config: of the step.
        known: plans of evaluations by what they depend on, which this adds to.
    """
    if config.evaluate is None or config.stage != "evaluate":
        return PLANS[config.stage](config)
    sections = (config.model, config.data, config.trainer, config.benchmark, config.plan)
    key = repr((*sections, len(config.evaluate.encoders)))
    if key not in known:
        known[key] = plan_evaluation(config)
    return known[key]


def workflow_table(steps: Mapping[str, tuple[Config, RunPlan]]) -> Table:
    """Each step's length, time, memory and disk."""
    columns = (
        Column("step", numeric=False),
        Column("steps"),
        Column("trained", "GPU hours"),
        Column("tested", "GPU hours"),
        Column("GPU", "GB"),
        Column("kept", "GB"),
        Column("for a time", "GB"),
    )
    rows = []
    for name, (config, plan) in steps.items():
        content, devices = plan.content, config.trainer.devices or 1
        evaluation = content["evaluation"]
        rows.append(
            (
                name,
                f"{content['steps']:,}" if "steps" in content else NOTHING,
                _hours(content["cost"]["hours"] * devices if "cost" in content else None),
                _hours(evaluation["hours"] * devices if evaluation else None),
                f"{content['memory_bytes'] / GIGA:.1f}",
                f"{content['kept_bytes'] / GIGA:.2f}",
                f"{evaluation['bytes'] / GIGA:.1f}" if evaluation else NOTHING,
            )
        )
    return Table("Workflow", "", columns, tuple(map(cells, rows)))


def workflow_total(steps: Mapping[str, tuple[Config, RunPlan]]) -> dict[str, float | None]:
    """Time, money, memory and disk of all steps, one after the other."""
    plans = [(plan.content, config.trainer.devices or 1) for config, plan in steps.values()]
    trained = [(content["cost"], devices) for content, devices in plans if "cost" in content]
    evaluated = [(e, devices) for content, devices in plans if (e := content["evaluation"])]
    here = [content["here"] for content, _ in plans if "cost" in content]
    seconds = [one["seconds"] for one in here if one is not None]
    return {
        "trainings": len(trained),
        "evaluations": len(evaluated),
        "gpu_hours": sum(cost["hours"] * devices for cost, devices in trained),
        "evaluation_gpu_hours": sum(cost["hours"] * devices for cost, devices in evaluated),
        "price": sum(cost["price"] for cost, _ in [*trained, *evaluated]),
        "memory_bytes": max((content["memory_bytes"] for content, _ in plans), default=0),
        "kept_bytes": sum(content["kept_bytes"] for content, _ in plans),
        "disk_bytes": sum(content["kept_bytes"] for content, _ in plans)
        + max((cost["bytes"] for cost, _ in evaluated), default=0),
        "seconds_here": sum(seconds) if seconds and len(seconds) == len(here) else None,
    }


def total_line(total: Mapping[str, Any]) -> str:
    """The sum in words."""
    here = total["seconds_here"]
    return (
        f"{total['trainings']} trainings: {format_hours(total['gpu_hours'])} of GPU time; "
        f"{total['evaluations']} evaluations: {format_hours(total['evaluation_gpu_hours'])};\n"
        f"{total['price']:.2f} in money; at most {total['memory_bytes'] / GIGA:.1f} GB on a GPU "
        f"and {total['disk_bytes'] / GIGA:,.1f} GB of disk"
        + ("" if here is None else f"; training here {format_duration(here)}")
    )


def workflow_text(steps: Mapping[str, tuple[Config, RunPlan]]) -> str:
    """The table with what its columns are."""
    return (
        terminal_table(workflow_table(steps))
        + "\n\nEstimated, not measured. A GPU's memory is that of the configured strategy,\n"
        "and of an evaluation the model's alone. Disk is kept for encoders and\n"
        "checkpoints, and taken for a time by embeddings and indexes."
    )


def _hours(hours: float | None) -> str:
    return NOTHING if hours is None else f"{hours:.3g}"
