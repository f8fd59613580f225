from tdro_lightning.report.latex import latex_table, latex_tables, latex_text
from tdro_lightning.report.tables import Cell, Column, Table, cells

TABLE = Table(
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
    assert latex_table(TABLE).splitlines() == [
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
    text = latex_tables([TABLE, TABLE])
    assert text.startswith("% Needs")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2


def test_special_characters_are_letters() -> None:
    assert latex_text(r"a\b{c}~^#$<>") == (
        r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\#\$\textless{}\textgreater{}"
    )
