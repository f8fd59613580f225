"""Stage `plan`: what a training stage reads, takes and costs; weights are not even downloaded."""

import logging
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Stage
from tdro_lightning.console.output import tell
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
    from tdro_lightning.planning.plan import plan_training, total_of

    quiet_libraries()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # What cannot be counted ends in an error of ours.
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    output = Path(config.run_dir) / "plan.json"
    if config.chain is not None:
        plans = _chain(config)
        write_json(output, {"steps": plans, "total": total_of(plans)})
    elif _own_stage() not in ("fit", "plan"):
        tell(f"{config.name}: its settings are right, and it trains nothing: no more to plan")
        return
    else:
        write_json(output, plan_training(config))
    tell(f"All numbers: {output}")


def _own_stage() -> str:
    """The stage that the experiment runs without `stage=plan`."""
    overrides = HydraConfig.get().overrides.task
    others = [o for o in overrides if o.lstrip("+").partition("=")[0] != "stage"]
    return str(compose("config", others).stage)


def _chain(config: Config) -> dict[str, Any]:
    """The plans of a chain's training steps."""
    from tdro_lightning.planning.plan import plan_training

    plans = {}
    for name in require(config.chain).steps:
        step = check_config(compose("config", step_overrides(config, name)))
        if step.stage == "fit":
            tell(f"== {step.name}: {step.description}\n")
            plans[name] = plan_training(step)
            tell("")
    return plans


STAGE = Stage(
    name="plan",
    run=_run,
    section="module",
    is_run=False,
)
