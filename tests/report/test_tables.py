from rich.cells import cell_len

from tdro_lightning.report.tables import (
    Cell,
    Column,
    Table,
    cells,
    format_difference,
    latex_table,
    latex_tables,
    latex_text,
    markdown_table,
    markdown_text,
    plain_text,
    terminal_table,
)

TABLE = Table(
    "Scores",
    "What they are.",
    (Column("Name", numeric=False), Column("nq", "7 queries")),
    (cells(["[red]a|b[/red]", "9.5"]), (Cell("c"), Cell("10.5", best=True))),
)


def test_a_difference_has_its_sign_unless_it_is_nothing() -> None:
    assert [format_difference(value) for value in (0.04, -0.04, 1.25, -1.0)] == [
        "0.0",
        "0.0",
        "+1.2",
        "-1.0",
    ]


def test_markdown_table_escapes_and_marks_the_best() -> None:
    assert markdown_table(TABLE).splitlines() == [
        "| Name | nq (7 queries) |",
        "| --- | ---: |",
        r"| \[red\]a\|b\[/red\] | 9.5 |",
        "| c | **10.5** |",
    ]


def test_markdown_text_shows_every_letter() -> None:
    assert markdown_text("<b>&") == "&lt;b&gt;&amp;"
    assert markdown_text("a_b _c_ *d* `e` ~f~ g\\h\n# i") == (
        r"a_b \_c\_ \*d\* \`e\` \~f\~ g\\h # i"
    )


def test_plain_text_shows_control_characters() -> None:
    assert plain_text("a\x1b[31m\tb\r\nc\x00 百科") == "a\\x1b[31m b c\\x00 百科"


def test_terminal_table_is_plain_and_aligned() -> None:
    lines = terminal_table(TABLE).splitlines()
    assert [line.split() for line in lines if "─" not in line] == [
        ["nq"],
        ["Name", "7", "queries"],
        ["[red]a|b[/red]", "9.5"],
        ["c", "10.5^"],
    ]
    assert lines[-2].index(".5") == lines[-1].index(".5")


def test_terminal_table_breaks_long_texts() -> None:
    table = Table("", "", (Column("x" * 300, numeric=False),), (cells(["y" * 400]),))
    lines = terminal_table(table).splitlines()
    assert max(map(len, lines)) == 80
    assert "".join(lines).count("y") == 400


def test_columns_that_do_not_fit_follow_below() -> None:
    """No number is broken or lost, and every part begins with the names."""
    sets = [Column(f"set {i}", f"{i * 1000} queries") for i in range(20)]
    names = ["a", "a name of several words that is longer than its column", "百科" * 30]
    rows = [cells([name, *(f"{n}{i}.25" for i in range(20))]) for n, name in enumerate(names)]
    rows.insert(1, (Cell("Measured here"),))
    table = Table("", "", (Column("retriever", numeric=False), *sets), tuple(rows))
    text = terminal_table(table)
    assert max(map(cell_len, text.splitlines())) <= 80
    assert text.count("retriever") == text.count("here") == text.count("a  ") > 1
    for n in range(3):
        assert [text.count(f" {n}{i}.25") for i in range(20)] == [1] * 20


MARKED = Table(
    "Scores",
    "",
    (Column("Name", numeric=False), Column("nq")),
    (
        (Cell("Measured *here*"),),
        (Cell("a"), Cell("9.5", best=True, mark="†")),
        cells(["b", "1.0"]),
    ),
)


def test_headings_and_marks_in_markdown() -> None:
    assert markdown_table(MARKED).splitlines()[2:] == [
        r"| *Measured \*here\** |  |",
        "| a | **9.5**† |",
        "| b | 1.0 |",
    ]


def test_headings_and_marks_in_the_terminal() -> None:
    lines = terminal_table(MARKED).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["Measured", "*here*"],
        ["a", "9.5†^"],
        ["b", "1.0"],
    ]
    assert lines[-2].index(".5") == lines[-1].index(".0")


PRINTED = Table(
    "Scores & gains",
    "100 % of them.",
    (Column("Name", numeric=False), Column("nq_1", "7 queries"), Column("Gain")),
    (
        (Cell("Measured here"),),
        (*cells(["top_70"]), Cell("9.5", best=True, mark="*"), Cell("+0.1")),
        (*cells(["plain"]), Cell("8.0", mark="†"), Cell("–")),
    ),
)


def test_table() -> None:
    assert latex_table(PRINTED).splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Scores \& gains. 100 \% of them.}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"Name & nq\_1 & Gain \\",
        r" & 7 queries &  \\",
        r"\midrule",
        r"\multicolumn{3}{l}{\textit{Measured here}} \\",
        r"top\_70 & \textbf{9.5}$^{*}$ & +0.1 \\",
        r"plain & 8.0$^{\dagger}$ & -- \\",
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]


def test_every_table_is_in_the_file() -> None:
    text = latex_tables([PRINTED, PRINTED])
    assert text.startswith("% Needs")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2


def test_special_characters_are_letters() -> None:
    assert latex_text(r"a\b{c}~^#$<>") == (
        r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\#\$\textless{}\textgreater{}"
    )
