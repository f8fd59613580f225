"""Stage `plan`: what a run or a workflow reads, takes and costs; no weights are downloaded."""

import logging
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig

from tdro_lightning.config.schema import Config, MNTPConfig
from tdro_lightning.config.stage import Stage
from tdro_lightning.console.output import show_status, tell
from tdro_lightning.files import write_json
from tdro_lightning.stages import check_config, require
from tdro_lightning.stages.chain import step_overrides


def _run(config: Config) -> None:
    """Write `plan.json` and print what it says.

    Raises:
        ConfigError: settings that cannot be, or an unknown GPU.
        DataError: a row, a weights file or a tokenizer that a run would refuse.
    """
    from tdro_lightning.console.libraries import quiet_libraries
    from tdro_lightning.planning.workflow import PLANS

    quiet_libraries()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # What cannot be counted ends in an error of ours.
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    output = Path(config.run_dir) / "plan.json"
    stage = _own_stage()
    if config.chain is not None:
        write_json(output, _plan_chain(config))
    elif stage in (*PLANS, "plan"):
        plan = PLANS.get(stage, PLANS["fit"])(config)
        tell(plan.text)
        _tell_notes(plan.notes)
        write_json(output, plan.content)
    else:
        tell(f"{config.name}: its settings are right, and it trains nothing: no more to plan")
        return
    tell(f"All numbers: {output}")


def _own_stage() -> str:
    """The stage that the experiment runs without `stage=plan`."""
    overrides = HydraConfig.get().overrides.task
    others = [o for o in overrides if o.lstrip("+").partition("=")[0] != "stage"]
    return str(compose("config", others).stage)


def _plan_chain(config: Config) -> dict[str, Any]:
    """The plans of a chain's trainings and evaluations, and their total, which are printed."""
    from tdro_lightning.planning.workflow import (
        PLANS,
        SHOWN,
        plan_step,
        total_line,
        workflow_text,
        workflow_total,
    )

    composed = {
        name: check_config(compose("config", step_overrides(config, name)))
        for name in require(config.chain).steps
    }
    counted = {name: step for name, step in composed.items() if step.stage in PLANS}
    planned = {name: step for name, step in counted.items() if not _adapts(step)}
    if left_out := [name for name, step in counted.items() if _adapts(step)]:
        tell(f"Not counted, since module=mntp is not yet: {', '.join(left_out)}\n")
    known: dict[str, Any] = {}
    steps = {}
    for number, (name, step) in enumerate(planned.items(), start=1):
        show_status(f"plan {number} of {len(planned)}: {name}")
        plan = plan_step(step, known)
        steps[name] = (step, plan)
        if len(planned) <= SHOWN:
            tell(f"== {step.name}: {step.description}\n")
            tell(plan.text)
            _tell_notes(plan.notes)
            tell("")
    tell(workflow_text(steps))
    if len(planned) > SHOWN:
        _tell_notes(list(dict.fromkeys(note for _, plan in steps.values() for note in plan.notes)))
    total = workflow_total(steps)
    tell(total_line(total))
    return {"steps": {name: plan.content for name, (_, plan) in steps.items()}, "total": total}


def _adapts(config: Config) -> bool:
    return config.stage == "fit" and isinstance(config.module, MNTPConfig)


def _tell_notes(notes: list[str]) -> None:
    for note in notes:
        tell(f"Not on this machine: {note}")


STAGE = Stage(
    name="plan",
    run=_run,
    section="module",
    is_run=False,
)
