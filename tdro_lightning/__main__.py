"""`python -m tdro_lightning +experiment=NAME [overrides]`: compose, check, run the stage."""

import difflib
import errno
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from tdro_lightning.config import checked, package_folder, unknown_key
from tdro_lightning.errors import (
    ConfigError,
    InputError,
    NonFiniteError,
    PeerError,
    ResourceError,
    Stopped,
)
from tdro_lightning.launcher import STARTED_BY
from tdro_lightning.processes import (
    from_first,
    is_first_process,
    process_group,
    processes,
    rank_here,
)

USAGE = """\
usage: python -m tdro_lightning +experiment=NAME [key=value ...]
       python -m tdro_lightning -m +experiment=NAME key=value1,value2   (a run for each value)
       python -m tdro_lightning +experiment=NAME --cfg job --resolve    (show the configuration)
"""
RESOURCES = {  # errors of the system whose cause is no fault of ours
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EIO, errno.ESTALE),
}


def conf_folder() -> Path:
    """The configuration folder: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    found = [folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir()]
    return found[0]


def experiments() -> dict[str, str]:
    """Name and description of every shipped experiment."""
    root = conf_folder() / "experiment"
    return {
        path.relative_to(root).with_suffix("").as_posix(): OmegaConf.load(path).description
        for path in sorted(root.rglob("*.yaml"))
        if not path.name.startswith("_")
    }


def run(composed: DictConfig, command: str) -> None:
    """Check the composed configuration and run its stage."""
    from tdro_lightning.stages import TOGETHER, run_stage

    job = HydraConfig.get()
    with open_dict(composed):
        if job.mode == RunMode.MULTIRUN:
            composed.run_dir = job.runtime.output_dir
        if processes() > 1:  # the folder's name may hold the time, which processes see differently
            composed.run_dir = from_first(composed.run_dir)
    config = checked(composed)
    devices = config.trainer.devices or 1
    if processes() == 1 < devices and config.stage in TOGETHER:
        launch(devices, job, config.run_dir)
        return
    if not is_first_process():
        log_to(Path(config.run_dir) / f"rank-{rank_here()}.log")
    run_stage(config, command)


def launch(devices: int, job: HydraConf, run_dir: str) -> None:
    """Start this job again as several processes, as torchrun would.

    Raises:
        PeerError: they ended with an error, which they have printed.
    """
    given = [s.path for s in job.runtime.config_sources if s.provider == "command-line"]
    command = [sys.executable, "-m", "tdro_lightning.launcher", "--standalone"]
    command += [f"--nproc-per-node={devices}", "-m", "tdro_lightning"]
    command += [*(f"--config-dir={path}" for path in given), *job.overrides.task]
    environment = {**os.environ, STARTED_BY: str(os.getpid())}
    process = subprocess.Popen([*command, f"run_dir={run_dir}"], env=environment)
    try:
        code = process.wait()
    except (KeyboardInterrupt, Stopped) as asked:
        process.send_signal(signal.SIGINT if isinstance(asked, KeyboardInterrupt) else asked.signal)
        process.wait()  # they end in their own time, with a checkpoint
        raise
    if code:
        raise PeerError(f"the {devices} processes of {run_dir} ended with an error", code)


def main() -> None:
    """Entry point; what a user can mend ends with one message and the exit code of its kind."""
    arguments = [_with_plus(argument) for argument in sys.argv[1:]]
    if "--help" in arguments or "-h" in arguments:
        print(USAGE + "\n" + _listing())
        return
    if not any(argument.startswith("+experiment=") for argument in arguments):
        print(USAGE + "\n" + _listing(), file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGTERM, _stop)
    try:
        wrong = _start(arguments)
    except HydraException as error:
        wrong = [ConfigError(_explained(error, arguments))]
    except InputError as error:
        wrong = [error]
    except FloatingPointError as error:
        wrong = [NonFiniteError(str(error))]
    except OSError as error:
        if error.errno not in RESOURCES:
            raise
        wrong = [ResourceError(f"{error.filename or 'a file'}: {error.strerror}")]
    except Stopped as stopped:
        if is_first_process():
            print(stopped, file=sys.stderr)
        sys.exit(stopped.code)
    except KeyboardInterrupt:
        print("interrupted; the same command continues a chain where it was", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if "Config group override must be a string" in str(error):  # Hydra's ValueError
            nulls = [a.removesuffix("=null") for a in arguments if re.fullmatch(r"\w+=null", a)]
            names = " ".join(f"~{name}" for name in nulls)
            wrong = [ConfigError(f"a group cannot be null; write {names}")]
        else:
            logging.getLogger(__name__).exception("failed")
            if processes() > 1:
                print(f"error: rank {rank_here()} failed, which ends all ranks", file=sys.stderr)
            raise
    rank = f"rank {rank_here()}: " if processes() > 1 else ""
    for one in wrong:
        print(f"error: {rank}{one}", file=sys.stderr)
    if wrong:
        sys.exit(wrong[-1].code)


def _stop(number: int, frame: Any) -> None:
    """Where nothing is trained, SIGTERM ends a run at once."""
    raise Stopped(number, f"stopped by {signal.Signals(number).name}")


def _start(arguments: list[str]) -> list[InputError | NonFiniteError]:
    """Let Hydra compose and run every job; the errors of the jobs that were given wrong input.

    A job of a sweep that is refused does not stop the others, except where several processes run
    it: those that were not refused may be waiting.
    """
    command = "python -m tdro_lightning " + shlex.join(arguments)
    wrong: list[InputError | NonFiniteError] = []

    started_by = os.getpid()

    def job(composed: DictConfig) -> None:
        OmegaConf.register_new_resolver("package_folder", package_folder, replace=True)
        try:
            run(composed, command)
        except (InputError, HydraException) as error:
            if processes() > 1 or os.getpid() != started_by:  # a launcher's job tells by failing
                raise
            wrong.append(error if isinstance(error, InputError) else ConfigError(str(error)))

    if not is_first_process():
        arguments += ["hydra.output_subdir=null"]
        arguments += [f"hydra/{kind}_logging=none" for kind in ("job", "hydra")]
        arguments += [f"hydra.{kind}.dir={tempfile.gettempdir()}" for kind in ("run", "sweep")]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of exiting with 1
    sys.argv[1:] = arguments
    with process_group():
        hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")(job)()
    return wrong


def log_to(path: Path) -> None:
    """Write what this process logs, from INFO on, to a file of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)


def _with_plus(argument: str) -> str:
    """Accept `experiment=NAME` for `+experiment=NAME`."""
    return f"+{argument}" if argument.startswith("experiment=") else argument


def _listing() -> str:
    known = experiments()
    width = max(map(len, known))
    return "experiments:\n" + "\n".join(f"  {n:{width}}  {line}" for n, line in known.items())


def _explained(error: HydraException, arguments: list[str]) -> str:
    """Hydra's first line, or the nearest name where an experiment or a key was misspelt."""
    named = next(a for a in arguments if a.startswith("+experiment=")).partition("=")[2]
    if f"experiment/{named}" in str(error) and named not in experiments():
        near = difflib.get_close_matches(named, experiments(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"no experiment {named}{hint}\n\n{_listing()}"
    key = re.match(r"Could not override '([\w.]+)'", str(error))
    return unknown_key(key[1]) if key else str(error).strip().splitlines()[0]


if __name__ == "__main__":
    main()
