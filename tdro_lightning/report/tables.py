"""Tables as values, and their Markdown and plain-text forms."""

import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A column's title, a short note under it, and whether it holds numbers."""

    title: str
    note: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """The text of a cell, whether it is the best of its column, and a mark of significance."""

    text: str
    best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A title, a caption that says what the reader sees, columns, and rows of as many cells.

    A row of one cell is the heading of the rows below it.
    """

    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def cells(texts: Sequence[str]) -> tuple[Cell, ...]:
    """A row of cells of which none is the best."""
    return tuple(Cell(text) for text in texts)


def signed(difference: float) -> str:
    """A difference with its sign; none where it rounds to nothing."""
    text = f"{difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def visible(text: str) -> str:
    r"""A text with every control, direction and format character as its escape, such as `\x1b`.

    Line ends and spaces of all widths stay. Every text of a report passes here, so that no name can
    control a terminal, hide or reverse what stands around it, or end a file's encoding.
    """
    return re.sub(r"[^\n -~]", _shown, text)


def plain_text(text: str) -> str:
    """A text on one line, made visible."""
    return visible(" ".join(text.split()))


def markdown_text(text: str) -> str:
    """Escape a text so that Markdown shows it letter by letter, also inside a table cell."""
    text = plain_text(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|\[\]~])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _shown(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()


def markdown_table(table: Table) -> str:
    """Header, ruler and rows in GitHub's Markdown; the best values are bold."""
    header = [
        markdown_text(f"{column.title} ({column.note})" if column.note else column.title)
        for column in table.columns
    ]
    ruler = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [_markdown_row(row, len(table.columns)) for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ruler, *rows])


def _markdown_row(row: tuple[Cell, ...], width: int) -> list[str]:
    if len(row) < width:
        return [f"*{markdown_text(row[0].text)}*", *[""] * (width - 1)]
    texts = [(markdown_text(cell.text), markdown_text(cell.mark), cell.best) for cell in row]
    return [f"**{text}**{mark}" if best else f"{text}{mark}" for text, mark, best in texts]


def terminal_table(table: Table) -> str:
    """The table as plain text, as wide as it needs; `^` marks the best values."""
    signs = [[cell.mark + "^" * cell.best for cell in row] for row in table.rows]
    widths = [
        max((len(row[i]) for row in signs if i < len(row)), default=0)
        for i in range(len(table.columns))
    ]
    # rich strips white space at the end of a cell, and with it the place of the marks
    blank = "\N{BRAILLE PATTERN BLANK}"
    drawn = TerminalTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in table.columns:
        title = plain_text(column.title) + (f"\n{plain_text(column.note)}" if column.note else "")
        drawn.add_column(Text(title), justify="right" if column.numeric else "left", no_wrap=True)
    for row, marks in zip(table.rows, signs, strict=True):
        drawn.add_row(
            *(
                Text(plain_text(cell.text) + mark + blank * (width - len(mark)))
                for cell, mark, width in zip(row, marks, widths, strict=False)
            )
        )
    stream = io.StringIO()
    Console(file=stream, width=10_000, color_system=None, force_terminal=False).print(drawn)
    lines = stream.getvalue().replace(blank, " ").splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")
