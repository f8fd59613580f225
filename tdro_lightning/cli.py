"""`python -m tdro_lightning +experiment=NAME [overrides]`: compose, check, run the stage.

Hydra is imported once there is something to compose, so that help comes at once.
"""

import difflib
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tdro_lightning import __version__
from tdro_lightning.config.safety import refuse_secret_arguments
from tdro_lightning.config.shipped import (
    conf_folder,
    experiments,
    list_experiments,
    unknown_experiment,
)
from tdro_lightning.console.output import accept_any_output, flush_output, live_output, tell
from tdro_lightning.console.screen import fit_screen
from tdro_lightning.distributed.launcher import STARTED_BY
from tdro_lightning.distributed.processes import (
    from_first,
    is_first_process,
    process_group,
    rank,
    world_size,
)
from tdro_lightning.errors import ConfigError, InputError, PeerError, RunStopped, did_you_mean
from tdro_lightning.runs.outcome import UNEXPECTED, RunOutcome, run_outcome
from tdro_lightning.secrets import mask_output, mask_secrets

if TYPE_CHECKING:
    from hydra.conf import HydraConf
    from omegaconf import DictConfig

USAGE = """\
usage: python -m tdro_lightning +experiment=NAME [key=value ...]
       python -m tdro_lightning -m +experiment=NAME key=value1,value2   (a run for each value)
       python -m tdro_lightning +experiment=NAME +sweep=SWEEP           (a shipped sweep)
       python -m tdro_lightning +experiment=NAME --cfg job --resolve    (show the configuration)
       python -m tdro_lightning +experiment=NAME stage=plan             (check it, forecast it)

to begin with: python -m tdro_lightning +experiment=demo
"""
OPTIONS = (
    *("--help", "-h", "--version", "--cfg", "-c", "--resolve", "--package", "-p"),
    *("--multirun", "-m", "--run", "-r", "--config-dir", "-cd", "--info", "-i"),
    *("--hydra-help", "--shell-completion", "-sc", "--experimental-rerun"),
)
VALUED = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--experimental-rerun")


def run(composed: "DictConfig", command: str) -> None:
    """Check the composed configuration and run its stage."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import open_dict

    from tdro_lightning.runs.run import run_stage
    from tdro_lightning.stages import check_config, stages

    job = HydraConfig.get()
    with open_dict(composed):
        if job.mode == RunMode.MULTIRUN:
            composed.run_dir = job.runtime.output_dir
        if world_size() > 1:  # the folder's name may hold the time, which processes see differently
            composed.run_dir = from_first(composed.run_dir)
    config = check_config(composed)
    stage = stages()[config.stage]
    devices = config.trainer.devices or 1
    if world_size() == 1 < devices and stage.all_processes:
        launch(devices, job, config.run_dir)
        return
    if not is_first_process():
        Path(config.run_dir).mkdir(parents=True, exist_ok=True)
        logging.basicConfig(
            filename=Path(config.run_dir) / f"rank-{rank()}.log",
            format="[%(asctime)s][%(name)s][%(levelname)s] %(message)s",
            level=logging.INFO,
            force=True,
        )
    with live_output():
        run_stage(stage, config, command)


def launch(devices: int, job: "HydraConf", run_dir: str) -> None:
    """Start this job again as several processes, as torchrun would.

    Raises:
        PeerError: they ended with an error, which they have printed.
    """
    given = [s.path for s in job.runtime.config_sources if s.provider == "command-line"]
    command = [
        *(sys.executable, "-m", "tdro_lightning.distributed.launcher", "--standalone"),
        *(f"--nproc-per-node={devices}", "-m", "tdro_lightning"),
        *(f"--config-dir={path}" for path in given),
        *job.overrides.task,
    ]
    environment = {**os.environ, STARTED_BY: str(os.getpid())}
    process = subprocess.Popen([*command, f"run_dir={run_dir}"], env=environment)
    try:
        code = process.wait()
    except (KeyboardInterrupt, RunStopped) as asked:
        process.send_signal(signal.SIGINT if isinstance(asked, KeyboardInterrupt) else asked.signal)
        process.wait()  # they end in their own time, with a checkpoint
        raise
    if code:
        raise PeerError(f"the {devices} processes of {run_dir} ended with an error", code)


def main() -> None:
    """Entry point; what a user can fix ends with one message and the exit code of its kind."""
    accept_any_output()
    mask_output()
    # The `+` of `+experiment=NAME` may be left out.
    arguments = [f"+{a}" if a.startswith("experiment=") else a for a in sys.argv[1:]]
    arguments = _options_first(arguments)
    if "--help" in arguments or "-h" in arguments:
        tell(USAGE + "\n" + list_experiments())
        return
    if "--version" in arguments:
        tell(f"tdro_lightning {__version__}")
        return
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        outcomes = _outcomes(arguments)
    finally:
        signal.signal(signal.SIGTERM, previous)
    prefix = f"rank {rank()}: " if world_size() > 1 else ""
    said = [f"error: {prefix}{o.reason}" for o in outcomes if o.status == "failed"]
    if is_first_process():
        said += [ended.reason for ended in outcomes if ended.status != "failed"]
    if said:
        _print_last("\n".join(said))
    if outcomes:
        sys.exit(outcomes[-1].code)


def _options_first(arguments: list[str]) -> list[str]:
    """The options, then the overrides: argparse takes no overrides on both sides of an option."""
    if {"--info", "-i"} & {*arguments}:  # whose value may be left out
        return arguments
    options, overrides = [], []
    rest = iter(arguments)
    for argument in rest:
        if argument.startswith("-"):
            options += [argument, *islice(rest, argument in VALUED)]
        else:
            overrides.append(argument)
    return [*options, *overrides]


def _print_last(text: str) -> None:
    """Print why a command ended, secrets masked, as much of it as a terminal shows."""
    text = mask_secrets(text)
    if sys.stderr is not None and sys.stderr.isatty():
        text = fit_screen(text, shutil.get_terminal_size())
    print(text, file=sys.stderr)


def _outcomes(arguments: list[str]) -> list[RunOutcome]:
    """Run the command; how it ended where it did not finish, for a sweep once for each such job."""
    try:
        refuse_secret_arguments(arguments)
        _refuse_options(arguments)
        if refused := _refused_at_once(arguments):
            *before, last = refused.splitlines()
            if before:
                print(mask_secrets("\n".join(before)), file=sys.stderr)
            _print_last(last)
            sys.exit(2)
        outcomes = [run_outcome(error) for error in _start(arguments)]
        flush_output()
        return outcomes
    except SystemExit:
        raise
    except BaseException as error:
        # An error of Hydra itself, or of a value that it needs.
        if type(error).__module__ in ("hydra.errors", "omegaconf.errors"):
            error = ConfigError(str(error).splitlines()[0])
        named = [a.partition("=")[2] for a in arguments if a.lstrip("+").startswith("run_dir=")]
        ended = run_outcome(error, named[-1] if named else "")
        if ended.hint == UNEXPECTED:
            logging.getLogger(__name__).exception("failed")
            if world_size() > 1:
                print(f"error: rank {rank()} failed, which ends all ranks", file=sys.stderr)
            raise
        return [ended]


def _stop(number: int, frame: Any) -> None:
    """Where nothing is trained, SIGTERM ends a run at once."""
    raise RunStopped(number, f"stopped by {signal.Signals(number).name}")


def _start(arguments: list[str]) -> list[InputError]:
    """Let Hydra compose and run every job; an error for each job of a sweep that failed.

    A job of a sweep that fails does not stop the others, and the sweep ends with a summary; except
    where several processes run it: those that did not fail may be waiting.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    import tdro_lightning.config.composition  # noqa: F401 - checks what is composed from here on
    from tdro_lightning.config.validation import package_folder
    from tdro_lightning.runs.sweeps import STARTED, failures, job_record, summarise

    command = "python -m tdro_lightning " + shlex.join(arguments)
    wrong: list[InputError] = []

    def job(composed: "DictConfig") -> None:
        OmegaConf.register_new_resolver("package_folder", package_folder, replace=True)
        if HydraConfig.get().mode == RunMode.MULTIRUN and world_size() == 1:
            with job_record(HydraConfig.get()):
                run(composed, command)
            return
        try:
            run(composed, command)
        except InputError as error:
            if world_size() > 1:  # the others may be waiting
                raise
            wrong.append(error)  # Hydra would print a headline above what it passes on

    if not is_first_process():
        arguments += [f"hydra/{kind}_logging=none" for kind in ("job", "hydra")]
        arguments += [f"hydra.{kind}.dir={tempfile.gettempdir()}" for kind in ("run", "sweep")]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra passes errors on instead of exiting with 1
    sys.argv[1:] = arguments
    with process_group():
        try:
            hydra.main(str(conf_folder()), config_name="config", version_base="1.3")(job)()
        finally:
            sweeps = STARTED.copy() if world_size() == 1 else []
            STARTED.clear()
            for folder in sweeps:
                summarise(folder)
    return wrong + [failure for folder in sweeps for failure in failures(folder)]


def _refuse_options(arguments: list[str]) -> None:
    """Refuse an option that Hydra does not have, and a second folder, of which it would take one.

    Raises:
        ConfigError: names the option, and the nearest one.
    """
    names = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    for name in names:
        if name not in OPTIONS:
            hint = did_you_mean(name, OPTIONS)
            raise ConfigError(f"unknown option {name}{hint or '.'} Known: {', '.join(OPTIONS)}")
    if sum(name in ("--config-dir", "-cd") for name in names) > 1:
        raise ConfigError(
            "--config-dir can be given once; give further folders as "
            "'hydra.searchpath=[file://FOLDER]'"
        )


def _refused_at_once(arguments: list[str]) -> str | None:
    """What to say where no experiment is named, or one that is not shipped, in the only folder."""
    known = experiments()
    named = [a.partition("=")[2] for a in arguments if a.startswith("+experiment=")]
    more = any(a.startswith(("--config-dir", "-cd", "hydra.searchpath=")) for a in arguments)
    if named and (named[0] in known or more or "," in named[0]):
        return None
    if named:
        return f"error: {unknown_experiment(named[0])}"
    for argument in arguments:
        key, _, value = argument.lstrip("+-").partition("=")
        near = difflib.get_close_matches(value or key, known, n=1)
        if near and (not value or difflib.get_close_matches(key, ["experiment"])):
            return f"error: {argument}: did you mean +experiment={near[0]}?"
    said = USAGE + "\n" + list_experiments()
    return f"{said}\n\nerror: no experiment is named; add +experiment=NAME" if arguments else said
