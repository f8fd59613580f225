"""Tables as values, their Markdown, LaTeX and terminal forms, and templates that hold them."""

import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from tdro_lightning.console.screen import WIDTH

NOTHING = "–"
SHORT_NAME, LONG_NAME = 16, 30  # columns of a text in a table for the terminal: least, most
GAP = 2  # between its columns where it is narrow
PREAMBLE = "% Needs \\usepackage{booktabs,graphicx}; wide tables are shrunk to the line.\n"
SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "×": r"$\times$",
    "*": "$^{*}$",
    "†": r"$^{\dagger}$",
    "–": "--",
}


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


def format_number(value: float | None, style: str) -> str:
    """A number in a style such as `.1f`; a dash where there is none."""
    return NOTHING if value is None else format(value, style)


def format_difference(difference: float) -> str:
    """A difference with its sign; none where it rounds to nothing."""
    text = f"{difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def escape_controls(text: str) -> str:
    r"""A text with every control, direction and format character as its escape, such as `\x1b`.

    Line ends and spaces of all widths stay. Every text of a report passes here, so that no name can
    control a terminal, hide or reverse what stands around it, or end a file's encoding.
    """
    return re.sub(r"[^\n -~]", _escape, text)


def plain_text(text: str) -> str:
    """A text on one line, made visible."""
    return escape_controls(" ".join(text.split()))


def markdown_text(text: str) -> str:
    """Escape a text so that Markdown shows it letter by letter, also inside a table cell."""
    text = plain_text(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|\[\]~])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
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


def terminal_table(table: Table, width: int = WIDTH) -> str:
    """The table as plain text within `width` columns of a terminal; `^` marks the best values.

    Where it is wider, titles and texts are broken into several lines. Where that does not suffice,
    the columns follow in parts, each of which begins with the first column.
    """
    whole = _drawn(table)
    if max(map(cell_len, whole.splitlines())) <= width:
        return whole
    least = [_least_width(table, i) for i in range(len(table.columns))]
    room = width - min(least[0], SHORT_NAME)  # for all columns but the first
    least[1:] = [min(one, room - GAP) for one in least[1:]]
    parts: list[list[int]] = [[]]
    for i in range(1, len(least)):
        if parts[-1] and sum(least[j] + GAP for j in [*parts[-1], i]) > room:
            parts.append([])
        parts[-1].append(i)
    texts = []
    for part in parts:
        others = [least[i] for i in part]
        first = min(least[0], width - sum(others) - GAP * len(others))
        texts.append(_drawn(_chosen_columns(table, [0, *part]), [first, *others]))
    return "\n\n".join(texts)


def _chosen_columns(table: Table, chosen: Sequence[int]) -> Table:
    """Some columns of a table, with all rows that are headings."""
    columns = tuple(table.columns[i] for i in chosen)
    rows = (row if len(row) == 1 else tuple(row[i] for i in chosen) for row in table.rows)
    return Table(table.title, table.caption, columns, tuple(rows))


def _least_width(table: Table, i: int) -> int:
    """The width of a column with its title broken; numbers stay whole, and texts up to a length."""
    column = table.columns[i]
    words = f"{plain_text(column.title)} {plain_text(column.note)}".split()
    own = [row[i] for row in table.rows if i < len(row)]
    signs = max((len(cell.mark) + cell.best for cell in own), default=0)
    longest = max((cell_len(plain_text(cell.text)) for cell in own), default=1) + signs
    longest = longest if column.numeric else min(longest, LONG_NAME)
    return max([longest, *map(cell_len, words)])


def _drawn(table: Table, widths: Sequence[int] | None = None) -> str:
    """The table as plain text, each column as wide as it needs, or of a given width."""
    signs = [[cell.mark + "^" * cell.best for cell in row] for row in table.rows]
    places = [
        max((len(row[i]) for row in signs if i < len(row)), default=0)
        for i in range(len(table.columns))
    ]
    # rich strips white space at the end of a cell, and with it the place of the marks
    blank = "\N{BRAILLE PATTERN BLANK}"
    padding = (0, 1) if widths is None else (0, GAP - 1, 0, 0)
    drawn = TerminalTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=padding)
    for i, column in enumerate(table.columns):
        title = plain_text(column.title) + (f"\n{plain_text(column.note)}" if column.note else "")
        drawn.add_column(
            Text(title),
            justify="right" if column.numeric else "left",
            no_wrap=widths is None,
            overflow="fold",
            width=None if widths is None else widths[i],
        )
    for row, marks in zip(table.rows, signs, strict=True):
        drawn.add_row(
            *(
                Text(plain_text(cell.text) + mark + blank * (place - len(mark)))
                for cell, mark, place in zip(row, marks, places, strict=False)
            )
        )
    stream = io.StringIO()
    Console(file=stream, width=10_000, color_system=None, force_terminal=False).print(drawn)
    lines = stream.getvalue().replace(blank, " ").splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def latex_tables(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """The notes as comments, then a `table` environment each, one after the other."""
    comments = "".join(f"% {plain_text(note)}\n" for note in notes)
    return PREAMBLE + comments + "".join(f"\n{latex_table(table)}" for table in tables)


def latex_table(table: Table) -> str:
    """The table with its caption; best values are bold and marks are superscripts."""
    columns = "".join("r" if column.numeric else "l" for column in table.columns)
    titles = [latex_text(column.title) for column in table.columns]
    notes = [latex_text(column.note) for column in table.columns]
    head = [_latex_line(titles)] + ([_latex_line(notes)] if any(notes) else [])
    body = [_latex_row(row, len(table.columns)) for row in table.rows]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(table.title)}. {latex_text(table.caption)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        *head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_text(text: str) -> str:
    """Escape a text so that LaTeX sets it letter by letter."""
    return "".join(SPECIAL.get(character, character) for character in plain_text(text))


def _latex_row(row: tuple[Cell, ...], width: int) -> str:
    if len(row) < width:
        return rf"\multicolumn{{{width}}}{{l}}{{\textit{{{latex_text(row[0].text)}}}}} \\"
    return _latex_line([_latex_cell(cell) for cell in row])


def _latex_cell(cell: Cell) -> str:
    text = latex_text(cell.text)
    return (rf"\textbf{{{text}}}" if cell.best else text) + latex_text(cell.mark)


def _latex_line(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"


def template_environment(folder: Path) -> Environment:
    """The templates of a folder: HTML is escaped, and a value that is not given is an error.

    No text gets into a page with a control character in it.
    """
    templates = Environment(
        loader=FileSystemLoader(folder),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        finalize=_escape_text,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["markdown"] = markdown_text
    templates.filters["markdown_table"] = markdown_table
    return templates


def _escape_text(value: Any) -> Any:
    return (
        escape_controls(value)
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )
