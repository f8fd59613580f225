"""The report, written as Markdown, HTML, LaTeX and tables for the terminal."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from tdro_lightning.console.durations import format_duration
from tdro_lightning.files import write_text
from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.gains import (
    BaselineComparison,
    below_untrained,
    compare_with_baselines,
    comparisons_as_json,
    few_seeds_warning,
)
from tdro_lightning.report.identity import set_notes
from tdro_lightning.report.layouts import layout_tables
from tdro_lightning.report.result_tables import MARKS, gain_tables, score_tables, seed_note
from tdro_lightning.report.results import (
    BASELINE,
    TITLES,
    Result,
    baseline_pairs,
    baselines,
    reasons_without_baseline,
    results_by_run,
    results_over_seeds,
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
    sweeps, main, _ = _write_files(folders, output, title, baseline)
    return "\n\n".join([*sweeps, main])


def write_sweep_report(sweep: Path) -> str:
    """Write the same into a sweep's own folder; returns its table, plot and notes as plain text."""
    sweeps, _, notes = _write_files([sweep], sweep, sweep.as_posix(), BASELINE)
    return "\n\n".join([*sweeps, *notes])


def _write_files(
    folders: Sequence[Path], output: Path, title: str, baseline: str
) -> tuple[list[str], str, list[str]]:
    """Write all files; returns the texts of the sweeps, of the results, and of the notes alone."""
    sweeps = read_sweeps(folders)
    if sweeps:  # jobs may have failed before they wrote a record
        folders = [folder for folder in folders if any(folder.rglob("run.json"))]
    runs = collect_runs(folders, with_sources=bool(sweeps)) if folders else ()
    results, by_run = results_over_seeds(runs), results_by_run(runs)
    pairs = baseline_pairs(results, baseline)
    metric = next((m for m in TITLES if any(one.common_sets(m) for one in results)), None)
    comparisons = compare_with_baselines(pairs, metric, None, results) if metric else []
    gains = gain_tables(comparisons, TITLES[metric]) if metric else ()
    layouts = layout_tables(results, pairs)
    notes = report_notes(runs, results, comparisons, metric, baseline)
    swept = [sweep_section(n, one, runs, comparisons, metric) for n, one in enumerate(sweeps)]
    sections = [
        *(section for section, _ in swept),
        result_section(by_run, comparisons, metric),
        *run_sections(runs),
        Section("layouts", "Layouts of the paper", "", (Block("", layouts),) if layouts else ()),
    ]
    _write_pages(output, title, [section for section in sections if section.blocks], runs, notes)
    write_text(output / "tables.tex", latex_tables([*layouts, *gains], notes))
    # In ASCII: JSON's own escapes keep every name as it is, and no control character stays raw.
    tests = json.dumps(comparisons_as_json(comparisons), indent=2, allow_nan=False)
    write_text(output / "significance.json", f"{tests}\n")
    lines = [plain_text(note) for note in notes]
    if not by_run:
        main = "\n".join(["No evaluated retriever in these runs.", *lines])
    else:
        table = score_tables(by_run)[0]
        main = (
            f"{table.title} × 100; ^ is the best trained value of a column\n\n"
            f"{terminal_table(table)}\n\n{_gains_text(gains, few_seeds_warning(comparisons))}"
            + "\n".join([*lines, plain_text(seed_note(by_run))])
        )
    return [text for _, text in swept], main, lines


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


def report_notes(
    runs: Sequence[Run],
    results: Sequence[Result],
    comparisons: Sequence[BaselineComparison],
    metric: str | None,
    baseline: str,
) -> list[str]:
    """A line each; none where there is nothing to say.

    Args:
        runs: all runs of the report.
        results: of these runs.
        comparisons: by the metric, with the baseline.
        metric: the main one, None where nothing is evaluated.
        baseline: label, run or step that the baseline goes by.
    """
    unfinished = ", ".join(f"{run.name} ({run.status})" for run in runs if run.status != "finished")
    failed = ", ".join(
        one.name
        for one in results
        if metric and below_untrained(one, results, metric, one.common_sets(metric))
    )
    warnings: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        for text in run.warnings:
            warnings[text].append(run.name)
    notes = [
        f"Not finished, so scores and weights of these runs are left out: {unfinished}."
        if unfinished
        else "",
        *(f"Warning of {', '.join(names)}: {text}" for text, names in warnings.items()),
        *set_notes(runs),
        f"Below the untrained model on average, so training has failed: {failed}."
        if failed
        else "",
        _without_gain(results, comparisons, baseline) if results else "",
    ]
    return [note for note in notes if note]


def _without_gain(
    results: Sequence[Result], comparisons: Sequence[BaselineComparison], baseline: str
) -> str:
    """Which results have no gain, why, and what to do about it; empty where all have one."""
    reasons = reasons_without_baseline(results, baseline)
    others = [
        *(one.result for one in comparisons),
        *(one for own in reasons.values() for one in own),
        *baselines(results, baseline),
    ]
    if rest := [one for one in results if one.name not in {other.name for other in others}]:
        reasons["no seed or metric in common with the baseline"] = rest
    missing = "; ".join(
        f"{', '.join(one.name for one in own)}: {reason}" for reason, own in reasons.items()
    )
    if comparisons:
        return f"Without a gain: {missing}." if reasons else ""
    if not reasons:
        return "There is no table of gains: only the baseline is evaluated."
    train = (
        "Train the baseline with +experiment=finetune_uniform and evaluate it on the same sets "
        "(+evaluate.encoders.uniform=FOLDER/encoder), or name another with report.baseline."
    )
    how = train if baseline == BASELINE else "Name another baseline with report.baseline."
    return f"There is no table of gains ({missing}). {how}"


def _gains_text(gains: Sequence[Table], warning: str) -> str:
    """The gains for the terminal, without those on each set, which are wide."""
    shown = [table for table in gains if "each set" not in table.title]
    texts = [f"{table.title}\n\n{terminal_table(table)}\n\n" for table in shown]
    return "".join([*texts, f"{MARKS}. {plain_text(warning)}".strip(), "\n\n"] if texts else [])
