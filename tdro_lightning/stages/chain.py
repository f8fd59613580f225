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
from tdro_lightning.stages import check_config, stages


def _run(config: Config) -> None:
    """Run each step in a folder of its name below the chain's.

    Raises:
        ConfigError: the chain whose files the steps read is not there.
    """
    assert config.chain is not None
    if config.chain.source is not None and not Path(config.chain.source).is_dir():
        raise ConfigError(
            f"chain.source={config.chain.source}: no such folder; it is the folder of a finished "
            f"chain of this seed, whose files the steps of {config.name} read"
        )
    steps = config.chain.steps
    for number, name in enumerate(steps, start=1):
        overrides = step_overrides(config, name)
        composed = check_config(compose("config", overrides))
        stage = stages()[composed.stage]
        title = f"[{number}/{len(steps)}] {name}"
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
    if config.chain.next:
        width = max(map(len, config.chain.next))
        lines = [f"  {what:{width}}  {command}" for what, command in config.chain.next.items()]
        tell("\n".join(["Next:", *lines]).replace("  python ", f"  {python()} "), folded=False)


def step_overrides(config: Config, name: str) -> list[str]:
    """What the configuration of a chain's step is composed of."""
    assert config.chain is not None
    experiment, *own = config.chain.steps[name]
    return [
        f"+experiment={experiment}",
        *config.chain.overrides,
        *own,
        *_command_line(),
        # A step that has a seed of its own keeps it, whatever the chain's is.
        *(override for override in own if override.startswith("seed=")),
        f"name={config.name}/{name}",
        f"run_dir={config.run_dir}/{name}",
        f"chain_dir={config.run_dir}",
    ]


def python() -> str:
    """How the user calls this Python: by the path of a virtual environment in his folder."""
    interpreter = Path(sys.executable)
    return (
        str(interpreter.relative_to(Path.cwd()))
        if interpreter.is_relative_to(Path.cwd())
        else "python"
    )


def _command_line() -> list[str]:
    """The user's own overrides, which hold for every step."""
    own = ("experiment=", "run_dir=", "name=", "chain", "stage=")
    overrides = HydraConfig.get().overrides.task
    return [override for override in overrides if not override.lstrip("+").startswith(own)]


STAGE = Stage(
    name="chain",
    run=_run,
    section="chain",
    all_processes=True,
    runs_every_time=True,
)
