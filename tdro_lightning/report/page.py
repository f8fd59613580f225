"""The report, written as Markdown, HTML, LaTeX and tables for the terminal."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from tdro_lightning.console.durations import format_duration
from tdro_lightning.files import write_text
from tdro_lightning.report.alarm_tables import alarm_lines
from tdro_lightning.report.alarms import (
    ALARM,
    comparisons_by_other_metrics,
    domain_changes,
    set_changes,
)
from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.gains import compare_with_each, few_seeds_warning
from tdro_lightning.report.layouts import layout_tables
from tdro_lightning.report.notes import report_notes
from tdro_lightning.report.published_models import published_tables
from tdro_lightning.report.result_tables import MARKS, gain_tables, score_tables, seed_note
from tdro_lightning.report.results import (
    BASELINES,
    TITLES,
    baseline_pairs,
    results_by_run,
    results_over_seeds,
)
from tdro_lightning.report.runs import Run
from tdro_lightning.report.sections import (
    Block,
    Section,
    result_section,
    run_sections,
    sparse_section,
    sweep_section,
)
from tdro_lightning.report.significance_file import comparisons_as_json
from tdro_lightning.report.svg import DARK, HUES, standalone_svg
from tdro_lightning.report.sweeps import read_sweeps
from tdro_lightning.report.tables import (
    NOTHING,
    Table,
    latex_tables,
    plain_text,
    template_environment,
    terminal_table,
)
from tdro_lightning.secrets import mask_secrets


def write_report(
    folders: Sequence[Path],
    output: Path,
    title: str,
    baselines: Sequence[str] = BASELINES,
    alarm: float = ALARM,
) -> str:
    """Write `report.md`, `report.html`, `tables.tex` and `significance.json` of all runs found.

    The page holds its figures; those of the Markdown lie beside it in `figures/`.

    Equal runs give equal bytes.

    Args:
        folders: run folders, or folders to search for them.
        output: the folder for the files.
        title: heading of the report.
        baselines: label, run or step of each retriever that the others are compared with. The
            paper's layouts show gains over the first one.
        alarm: by how many points a set or domain falls that the alarms list.

    Returns:
        Sweeps, alarms, the main results table, the gains and the note on seeds, as plain text.

    Raises:
        ConfigError: no retriever is a baseline that is no usual one.
        DataError: no run is found, or a file of a run is broken.
    """
    sweeps, alarms, main, _ = _write_files(folders, output, title, baselines, alarm)
    return "\n\n".join(filter(None, [*sweeps, alarms, main]))


def write_sweep_report(sweep: Path) -> str:
    """Write the same into a sweep's own folder; returns all but the results, as plain text."""
    sweeps, alarms, _, notes = _write_files([sweep], sweep, sweep.as_posix(), BASELINES, ALARM)
    return "\n\n".join(filter(None, [*sweeps, alarms, *notes]))


def _write_files(
    folders: Sequence[Path], output: Path, title: str, baselines: Sequence[str], alarm: float
) -> tuple[list[str], str, str, list[str]]:
    """Write all files; returns the texts of the sweeps, alarms, results, and of the notes alone."""
    sweeps = read_sweeps(folders)
    if sweeps:  # jobs may have failed before they wrote a record
        folders = [folder for folder in folders if any(folder.rglob("run.json"))]
    runs = collect_runs(folders, with_sources=bool(sweeps)) if folders else ()
    results, by_run = results_over_seeds(runs), results_by_run(runs)
    metric = next((m for m in TITLES if any(one.common_sets(m) for one in results)), None)
    comparisons = compare_with_each(results, baselines, metric or "")
    others = comparisons_by_other_metrics(results, baselines, metric) if metric else []
    changes = [
        *set_changes(results, [*comparisons, *others]),
        *domain_changes(runs, comparisons),
    ]
    gains = gain_tables(comparisons, TITLES[metric]) if metric else ()
    published = published_tables(runs)
    layouts = (*published, *layout_tables(results, baseline_pairs(results, baselines[0])))
    notes = report_notes(runs, results, comparisons, metric, baselines)
    swept = [
        sweep_section(n, one, runs, comparisons, metric, baselines, alarm)
        for n, one in enumerate(sweeps)
    ]
    sections = [
        *(section for section, _ in swept),
        result_section(by_run, comparisons, metric, changes, alarm),
        sparse_section(by_run, runs),
        *run_sections(runs),
        Section("layouts", "Layouts of the paper", "", (Block("", layouts),) if layouts else ()),
    ]
    _write_pages(output, title, [section for section in sections if section.blocks], runs, notes)
    write_text(output / "tables.tex", latex_tables([*layouts, *gains], notes))
    # In ASCII: JSON's own escapes keep every name as it is, and no control character stays raw.
    tested = comparisons_as_json([*comparisons, *others], changes, alarm)
    tests = json.dumps(tested, indent=2, allow_nan=False)
    write_text(output / "significance.json", f"{tests}\n")
    lines = [plain_text(note) for note in notes]
    if not by_run:
        main = "\n".join(["No evaluated retriever in these runs.", *lines])
    else:
        table = score_tables(by_run)[0]
        main = (
            f"{table.title} × 100; ^ is the best trained value of a column\n\n"
            f"{terminal_table(table)}\n\n{_gains_text(gains, few_seeds_warning(comparisons))}"
            + "".join(f"{one.title}\n\n{terminal_table(one)}\n\n" for one in published[:1])
            + "\n".join([*lines, plain_text(seed_note(by_run))])
        )
    return [text for _, text in swept], alarm_lines(changes, alarm), main, lines


def _write_pages(
    output: Path,
    title: str,
    sections: Sequence[Section],
    runs: Sequence[Run],
    notes: Sequence[str],
) -> None:
    """The page with its figures inside, and the Markdown with its figures beside it."""
    for old in (output / "figures").glob("*.svg"):
        old.unlink()
    figures: dict[str, str] = {}
    for section in sections:
        drawings = [figure.svg for block in section.blocks for figure in block.figures]
        for number, svg in enumerate(drawings, start=1):
            figures[svg] = f"figures/{section.anchor}-{number}.svg"
            write_text(output / figures[svg], standalone_svg(svg))
    templates = template_environment(Path(__file__).parent)
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
