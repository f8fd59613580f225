"""Stage `chain`: experiments one after the other; what is finished and unchanged is skipped."""

import shlex
import sys
from pathlib import Path

from hydra import compose
from hydra.core.hydra_config import HydraConfig

from tdro_lightning.config.schema import Config
from tdro_lightning.config.stage import Stage
from tdro_lightning.console.output import tell
from tdro_lightning.distributed.processes import from_first, is_first_process
from tdro_lightning.errors import ConfigError
from tdro_lightning.runs.record import reason_to_run
from tdro_lightning.runs.run import run_stage
from tdro_lightning.stages import check_config, require, stages


def _run(config: Config) -> None:
    """Run each step in a folder of its name below the chain's.

    Raises:
        ConfigError: the chain whose files the steps read is not there.
    """
    chain = require(config.chain)
    if chain.source is not None and not Path(chain.source).is_dir():
        raise ConfigError(
            f"chain.source={chain.source}: no such folder; it is the folder of a finished "
            f"chain of this seed, whose files the steps of {config.name} read"
        )
    for number, name in enumerate(chain.steps, start=1):
        overrides = step_overrides(config, name)
        composed = check_config(compose("config", overrides))
        stage = stages()[composed.stage]
        title = f"[{number}/{len(chain.steps)}] {name}"
        # The first process says what is finished, so that all run the same steps.
        reason = from_first(reason_to_run(stage, composed) if is_first_process() else None)
        if reason is None:
            tell(f"{title}: finished before, nothing changed")
            continue
        tell(f"{title}: {composed.description}")
        if reason:
            tell(f"  run again: {reason}")
        Path(composed.run_dir).mkdir(parents=True, exist_ok=True)
        run_stage(stage, composed, f"python -m tdro_lightning {shlex.join(overrides)}")
    if chain.next:
        width = max(map(len, chain.next))
        lines = [f"  {what:{width}}  {command}" for what, command in chain.next.items()]
        text = "\n".join(["Next:", *lines])
        tell(text.replace("  python ", f"  {python()} "), folded=False)


def step_overrides(config: Config, name: str) -> list[str]:
    """What the configuration of a chain's step is composed of."""
    chain = require(config.chain)
    experiment, *own = chain.steps[name]
    of_chain = ("experiment=", "run_dir=", "name=", "chain", "stage=")
    command_line = HydraConfig.get().overrides.task
    return [
        f"+experiment={experiment}",
        *chain.overrides,
        *own,
        *(override for override in command_line if not override.lstrip("+~").startswith(of_chain)),
        # A step that has a seed or a model of its own keeps it, whatever the chain's is.
        *(override for override in own if override.startswith(("seed=", "model.path="))),
        f"name={config.name}/{name}",
        f"run_dir={config.run_dir}/{name}",
        f"chain_dir={config.run_dir}",
    ]


def python() -> str:
    """How the user calls this Python: by the path of a virtual environment in his folder."""
    interpreter, folder = Path(sys.executable), Path.cwd()
    is_here = interpreter.is_relative_to(folder)
    return str(interpreter.relative_to(folder)) if is_here else "python"


STAGE = Stage(
    name="chain",
    run=_run,
    section="chain",
    all_processes=True,
    runs_every_time=True,
)
