"""Inputs that cannot be used, each with the exit code and the message that it must end with.

A group is a module here with a list `CASES`; a new group is a module more, named in `GROUPS`.
`docs/errors.md` is made of them (`python -m tests.malformed`), and `tests/test_malformed.py` checks
that it is, and that every input ends as it says.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GROUPS = {
    "rows": "Rows",
    "files": "Files of rows",
    "imports": "Rows of other layouts",
    "imports_by_id": "Rows of other layouts that name documents by id",
    "weights": "Weights files",
    "configs": "Configurations",
    "models": "Model folders",
    "checkpoints": "Checkpoints",
}


@dataclass(frozen=True)
class Case:
    """One input that cannot be used.

    Args:
        what: the fault, in words.
        use: makes the input in a folder and uses it as the program does; it must raise.
        code: exit code of the command.
        message: what the command prints behind `error: `; `...` stands for anything, and a path
            in the folder is written from there.
    """

    what: str
    use: Callable[[Path], object]
    code: int
    message: str


def cases(group: str) -> list[Case]:
    """The cases of a group."""
    found: list[Case] = importlib.import_module(f"tests.malformed.{group}").CASES
    return found


def page() -> str:
    """All cases as Markdown."""
    lines = [
        "# What ends a command, and how it says so",
        "",
        "Made by `python -m tests.malformed` from inputs that the tests use; `...` stands for what",
        "depends on the input or on a library's version. Exit codes: 2 configuration, 3 data, 4",
        "numbers that are not finite, 5 no usable checkpoint, 6 disk or memory, 130 Ctrl-C, 143",
        "SIGTERM. `status.json` in the run folder says the same in words.",
    ]
    for group, title in GROUPS.items():
        lines += ["", f"## {title}", "", "| what is wrong | exit | message |", "|---|---|---|"]
        lines += [
            f"| {_cell(case.what)} | {case.code} | {_cell(case.message)} |" for case in cases(group)
        ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    text = text.replace("\n", " / ").replace("|", "\\|")
    parts = text.split("`")  # what stands in code is shown as it is
    for i in range(0, len(parts), 2):
        for sign, shown in (("<", "&lt;"), ("*", "\\*"), ("_", "\\_"), ("[", "\\[")):
            parts[i] = parts[i].replace(sign, shown)
    return "`".join(parts)
