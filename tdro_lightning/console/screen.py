"""Texts that fit a terminal."""

import os
import textwrap

WIDTH = 80  # columns that tables and lines of progress fit


def fold(text: str, width: int) -> str:
    """A text whose lines are broken at spaces to `width` columns; what follows is indented.

    Words stay whole, so that a path or command can be copied.
    """
    lines = []
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        lines += textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ) or [line]
    return "\n".join(lines) + "\n" * text.endswith("\n")


def fit_screen(text: str, size: os.terminal_size) -> str:
    """A text folded to a terminal of some size, without what does not fit its lines.

    The first lines stay, with the number of those that are left out; one line is for the prompt.
    """
    lines = fold(text, size.columns).splitlines()
    room = max(1, size.lines - 2)
    if len(lines) <= room + 1:
        return "\n".join(lines)
    left = f"... and {len(lines) - room} more lines; all of them: add 2>errors.txt"
    return "\n".join([*lines[:room], left])
