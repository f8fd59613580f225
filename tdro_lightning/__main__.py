"""`python -m tdro_lightning +experiment=NAME [overrides]`: compose, check, run the stage."""

import difflib
import os
import shlex
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from tdro_lightning.config import checked, package_folder
from tdro_lightning.errors import ConfigError, InputError

USAGE = """\
usage: python -m tdro_lightning +experiment=NAME [key=value ...]
       python -m tdro_lightning -m +experiment=NAME key=value1,value2   (a run for each value)
       python -m tdro_lightning +experiment=NAME --cfg job --resolve    (show the configuration)
"""


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


def run(composed: DictConfig) -> None:
    """Check the composed configuration and run its stage."""
    from tdro_lightning.stages import run_stage

    job = HydraConfig.get()
    if job.mode == RunMode.MULTIRUN:
        with open_dict(composed):
            composed.run_dir = job.runtime.output_dir
    run_stage(checked(composed), "python -m tdro_lightning " + shlex.join(sys.argv[1:]))


def main() -> None:
    """Entry point; wrong input ends with exit code 2 and one message."""
    arguments = [_with_plus(argument) for argument in sys.argv[1:]]
    if "--help" in arguments or "-h" in arguments:
        print(USAGE + "\n" + _listing())
        return
    if not any(argument.startswith(("+experiment=", "--")) for argument in arguments):
        print(USAGE + "\n" + _listing(), file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = arguments
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of exiting with 1
    OmegaConf.register_new_resolver("package_folder", package_folder, replace=True)
    start = hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")
    try:
        start(run)()
    except (InputError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {_explained(error, arguments)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command continues a chain where it was", file=sys.stderr)
        sys.exit(130)


def _with_plus(argument: str) -> str:
    """Accept `experiment=NAME` for `+experiment=NAME`."""
    return f"+{argument}" if argument.startswith("experiment=") else argument


def _listing() -> str:
    known = experiments()
    width = max(map(len, known))
    return "experiments:\n" + "\n".join(f"  {n:{width}}  {line}" for n, line in known.items())


def _explained(error: Exception, arguments: list[str]) -> str:
    """One message, with the nearest experiment where its name was not found."""
    message = str(error).strip()
    named = [a.partition("=")[2] for a in arguments if a.startswith("+experiment=")]
    if isinstance(error, HydraException) and named and named[0] not in experiments():
        near = difflib.get_close_matches(named[0], experiments(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"no experiment {named[0]}{hint}\n\n{_listing()}"
    if isinstance(error, HydraException) and not isinstance(error, ConfigError):
        return message.splitlines()[0]
    return message


if __name__ == "__main__":
    main()
