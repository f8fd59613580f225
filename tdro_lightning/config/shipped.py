"""The experiments and options that are shipped in `conf/`: their list, and the nearest name."""

import re
from pathlib import Path

from tdro_lightning.errors import did_you_mean


def conf_folder() -> Path:
    """The configuration folder: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    folders = [folder for folder in (package / "conf", package.parent / "conf") if folder.is_dir()]
    return folders[0]


KINDS = ("recipe", "workflow", "tool")  # of experiments; a comment in each file says which


def experiments() -> dict[str, str]:
    """Name and description of every shipped experiment."""
    return {
        name: _line(name, 'description: "(.*)"')
        for name in _options("experiment")
        if not name.rpartition("/")[2].startswith("_")
    }


def experiments_of(kind: str) -> list[str]:
    """Names of the shipped experiments of one of `KINDS`."""
    return [name for name in experiments() if _line(name, r"# kind: (\w+)") == kind]


def _line(name: str, pattern: str) -> str:
    """What a pattern finds in a line of an experiment file."""
    text = (conf_folder() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    return str(re.findall(f"^{pattern}$", text, re.MULTILINE)[0])


def _options(group: str) -> list[str]:
    root = conf_folder() / group
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


def list_experiments() -> str:
    """The list that is shown where no experiment is named."""
    known = experiments()
    width = max(map(len, known))
    lines = []
    for kind in KINDS:
        lines += [f"{kind}s:", *(f"  {n:{width}}  {known[n]}" for n in experiments_of(kind))]
    return "\n".join(lines)


def unknown_experiment(name: str) -> str:
    """The message for an experiment that is not there, with the nearest one."""
    near = did_you_mean(name, experiments()) or "."
    return f"no experiment {name}{near} All of them: python -m tdro_lightning --help"


def unknown_option(group: str, name: str) -> str:
    """The message for an option that a group does not have, with the nearest one."""
    known = _options(group)
    hint = did_you_mean(name, known, f"{group}=")
    return f"no {group}/{name}{hint or '.'} There are: {', '.join(known)}"
