"""Tables in LaTeX, for a paper that loads booktabs and graphicx."""

from collections.abc import Sequence

from tdro_lightning.report.tables import Cell, Table, plain_text

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


def latex_tables(tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """The notes as comments, then a `table` environment each, one after the other."""
    comments = "".join(f"% {plain_text(note)}\n" for note in notes)
    return PREAMBLE + comments + "".join(f"\n{latex_table(table)}" for table in tables)


def latex_table(table: Table) -> str:
    """The table with its caption; best values are bold and marks stand raised."""
    columns = "".join("r" if column.numeric else "l" for column in table.columns)
    titles = [latex_text(column.title) for column in table.columns]
    notes = [latex_text(column.note) for column in table.columns]
    head = [_line(titles)] + ([_line(notes)] if any(notes) else [])
    body = [_row(row, len(table.columns)) for row in table.rows]
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


def _row(row: tuple[Cell, ...], width: int) -> str:
    if len(row) < width:
        return rf"\multicolumn{{{width}}}{{l}}{{\textit{{{latex_text(row[0].text)}}}}} \\"
    return _line([_cell(cell) for cell in row])


def _cell(cell: Cell) -> str:
    text = latex_text(cell.text)
    return (rf"\textbf{{{text}}}" if cell.best else text) + latex_text(cell.mark)


def _line(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"
