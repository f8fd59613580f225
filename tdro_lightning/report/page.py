"""The report, written as Markdown, HTML, LaTeX and tables for the terminal."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from tdro_lightning.console.durations import format_duration
from tdro_lightning.files import write_text
from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.gain_tables import MARKS, gain_tables
from tdro_lightning.report.gains import compared, content, few_seeds
from tdro_lightning.report.latex import latex_tables
from tdro_lightning.report.layouts import layout_tables
from tdro_lightning.report.notes import report_notes
from tdro_lightning.report.results import (
    BASELINE,
    TITLES,
    ordered_results,
    result_tables,
    seed_note,
)
from tdro_lightning.report.runs import Run
from tdro_lightning.report.sections import (
    Block,
    Section,
    result_section,
    run_sections,
    sweep_section,
)
from tdro_lightning.report.svg import DARK, HUES, standalone_svg
from tdro_lightning.report.sweeps import read_sweeps
from tdro_lightning.report.tables import NOTHING, Table, plain_text, terminal_table
from tdro_lightning.report.templates import environment
from tdro_lightning.report.trials import all_trials, baseline_pairs
from tdro_lightning.secrets import mask_secrets


def write_report(
    folders: Sequence[Path], output: Path, title: str, baseline: str = BASELINE
) -> str:
    """Write `report.md`, `report.html`, `tables.tex` and `significance.json` of all runs found.

    The page holds its figures; those of the Markdown lie beside it in `figures/`.

    Equal runs give equal bytes.

    Args:
        folders: run folders, or folders to search for them.
        output: the folder for the files.
        title: heading of the report.
        baseline: label, run or step of the retriever that others are compared with.

    Returns:
        Sweeps, the main results table, the gains and the note on seeds, as plain text.

    Raises:
        ConfigError: no retriever is the baseline.
        DataError: no run is found, or a file of a run is broken.
    """
    sweeps, rest, _ = _written(folders, output, title, baseline)
    return "\n\n".join([*sweeps, rest])


def write_sweep_report(sweep: Path) -> str:
    """Write the same into a sweep's own folder; returns its table, plot and notes as plain text."""
    sweeps, _, notes = _written([sweep], sweep, sweep.as_posix(), BASELINE)
    return "\n\n".join([*sweeps, *notes])


def _written(
    folders: Sequence[Path], output: Path, title: str, baseline: str
) -> tuple[list[str], str, list[str]]:
    """Texts of the sweeps, of the rest, and of the notes, which the rest has too."""
    sweeps = read_sweeps(folders)
    if sweeps:  # jobs may have failed before they wrote a record
        folders = [folder for folder in folders if any(folder.rglob("run.json"))]
    runs = collect_runs(folders, with_sources=bool(sweeps)) if folders else ()
    trials = all_trials(runs)
    pairs = baseline_pairs(trials, baseline)
    metric = next((m for m in TITLES if any(trial.common_sets(m) for trial in trials)), None)
    comparisons = compared(pairs, metric, None, trials) if metric else []
    gains = gain_tables(comparisons, TITLES[metric]) if metric else ()
    layouts = layout_tables(trials, pairs)
    notes = report_notes(runs, trials, comparisons, metric, baseline)
    results = ordered_results(runs)
    swept = [sweep_section(n, one, runs, comparisons, metric) for n, one in enumerate(sweeps)]
    sections = [
        *(section for section, _ in swept),
        result_section(results, comparisons, metric),
        *run_sections(runs),
        Section("layouts", "Layouts of the paper", "", (Block("", layouts),) if layouts else ()),
    ]
    _write_pages(output, title, [section for section in sections if section.blocks], runs, notes)
    write_text(output / "tables.tex", latex_tables([*layouts, *gains], notes))
    # In ASCII: JSON's own escapes keep every name as it is, and no control character stays raw.
    tests = json.dumps(content(comparisons), indent=2, allow_nan=False)
    write_text(output / "significance.json", f"{tests}\n")
    texts = [text for _, text in swept]
    noted = [plain_text(note) for note in notes]
    if not results:
        return texts, "\n".join(["No evaluated retriever in these runs.", *noted]), noted
    table = result_tables(results)[0]
    rest = (
        f"{table.title} × 100; ^ is the best trained value of a column\n\n"
        f"{terminal_table(table)}\n\n{_gains_text(gains, few_seeds(comparisons))}"
        + "\n".join([*noted, plain_text(seed_note(results))])
    )
    return texts, rest, noted


def _write_pages(
    output: Path,
    title: str,
    sections: Sequence[Section],
    runs: Sequence[Run],
    notes: Sequence[str],
) -> None:
    """The page with its figures inside, and the Markdown with its figures beside it."""
    figures: dict[str, str] = {}
    for section in sections:
        found = [figure for block in section.blocks for figure in block.figures]
        for number, figure in enumerate(found, start=1):
            figures[figure.svg] = f"figures/{section.anchor}-{number}.svg"
    for old in (output / "figures").glob("*.svg"):
        old.unlink()
    for svg, name in figures.items():
        write_text(output / name, standalone_svg(svg))
    templates = environment(Path(__file__).parent)
    templates.filters["svg"] = lambda figure: Markup(figure.svg)
    templates.filters["duration"] = format_duration
    for name in ("report.md", "report.html"):
        template = templates.get_template(f"page.{name.partition('.')[2]}.j2")
        text = template.render(
            title=title, sections=sections, runs=runs, notes=notes, figures=figures,
            nothing=NOTHING,
            hues=HUES, dark_hues=DARK, chains=list(dict.fromkeys(r.chain for r in runs if r.chain)),
        )  # fmt: skip
        write_text(output / name, mask_secrets(re.sub(r"\n{3,}", "\n\n", text)))


def _gains_text(gains: Sequence[Table], warning: str) -> str:
    """The gains for the terminal, without those on each set, which are wide."""
    shown = [table for table in gains if "each set" not in table.title]
    texts = [f"{table.title}\n\n{terminal_table(table)}\n\n" for table in shown]
    return "".join([*texts, f"{MARKS}. {plain_text(warning)}".strip(), "\n\n"] if texts else [])
