"""The experiments and options that are shipped in `conf/`: their list, and the nearest name."""

import re
from pathlib import Path

from tdro_lightning.errors import did_you_mean


def conf_folder() -> Path:
    """The configuration folder: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    folders = [folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir()]
    return folders[0]


def experiments() -> dict[str, str]:
    """Name and description of every shipped experiment."""
    return {
        name: _description(conf_folder() / "experiment" / f"{name}.yaml")
        for name in _options("experiment")
        if not name.rpartition("/")[2].startswith("_")
    }


def _description(path: Path) -> str:
    """The description of an experiment file, a line of its own."""
    text = path.read_text(encoding="utf-8")
    return str(re.findall(r'^description: "(.*)"$', text, re.MULTILINE)[0])


def _options(group: str) -> list[str]:
    root = conf_folder() / group
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


def list_experiments() -> str:
    """The list that is shown where no experiment is named."""
    known = experiments()
    width = max(map(len, known))
    return "experiments:\n" + "\n".join(f"  {n:{width}}  {line}" for n, line in known.items())


def unknown_experiment(name: str) -> str:
    """The message for an experiment that is not there, with the nearest one."""
    return f"no experiment {name}{did_you_mean(name, experiments())}\n\n{list_experiments()}"


def unknown_option(group: str, name: str) -> str:
    """The message for an option that a group does not have, with the nearest one."""
    known = _options(group)
    hint = did_you_mean(name, known, f"{group}=")
    return f"no {group}/{name}{hint} There are: {', '.join(known)}"
