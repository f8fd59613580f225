"""The report: sections from runs, written as Markdown, HTML and one table for the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tdro_lightning.files import write_json, write_text
from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.domains import concentration_table, usage_table, weight_table
from tdro_lightning.report.figures import (
    Figure,
    health_curves,
    loss_panels,
    measurement_panels,
    training_curves,
    weight_bars,
    weight_trajectories,
)
from tdro_lightning.report.gain_tables import MARKS, gain_tables
from tdro_lightning.report.gains import compared, content
from tdro_lightning.report.health import health_table
from tdro_lightning.report.latex import latex_tables
from tdro_lightning.report.layouts import layout_tables
from tdro_lightning.report.results import (
    BASELINE,
    TITLES,
    ordered_results,
    result_tables,
    seed_note,
)
from tdro_lightning.report.runs import Run
from tdro_lightning.report.speed import speed_table
from tdro_lightning.report.tables import (
    NOTHING,
    Table,
    markdown_table,
    markdown_text,
    plain_text,
    terminal_table,
)
from tdro_lightning.report.trials import all_trials, baseline_pairs


@dataclass(frozen=True)
class Block:
    """Tables and figures that belong together, under a run's name where there is one."""

    heading: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the report with its own heading."""

    anchor: str
    heading: str
    note: str
    blocks: tuple[Block, ...]


def write_report(
    folders: Sequence[Path], output: Path, title: str, baseline: str = BASELINE
) -> str:
    """Write `report.md`, `report.html`, `tables.tex` and `significance.json` of all runs found.

    Equal runs give equal bytes.

    Args:
        folders: run folders, or folders to search for them.
        output: the folder for the files.
        title: heading of the report.
        baseline: label, run or step of the retriever that others are compared with.

    Returns:
        The main results table, the gains and the note on seeds, as plain text.

    Raises:
        ConfigError: no retriever is the baseline.
        DataError: no run is found, or a file of a run is broken.
    """
    runs = collect_runs(folders)
    trials = all_trials(runs)
    pairs = baseline_pairs(trials, baseline)
    metric = next((m for m in TITLES if any(trial.common_sets(m) for trial in trials)), None)
    comparisons = compared(pairs, metric) if metric else []
    gains = gain_tables(comparisons, TITLES[metric]) if metric else ()
    layouts = layout_tables(trials, pairs)
    sections = [section for section in _sections(runs, gains, layouts) if section.blocks]
    for name in ("report.md", "report.html"):
        template = _environment().get_template(f"page.{name.partition('.')[2]}.j2")
        text = template.render(title=title, sections=sections, runs=runs, nothing=NOTHING)
        write_text(output / name, text)
    write_text(output / "tables.tex", latex_tables([*layouts, *gains]))
    write_json(output / "significance.json", content(comparisons))
    results = ordered_results(runs)
    if not results:
        return "No evaluated retriever in these runs."
    table = result_tables(results)[0]
    return (
        f"{table.title} × 100; ^ is the best trained value of a column\n\n"
        f"{terminal_table(table)}\n\n{_gains_text(gains)}{plain_text(seed_note(results))}"
    )


def _gains_text(gains: Sequence[Table]) -> str:
    """The gains for the terminal, without those on each set, which are wide."""
    shown = [table for table in gains if "each set" not in table.title]
    texts = [f"{table.title}\n\n{terminal_table(table)}\n\n" for table in shown]
    return "".join([*texts, f"{MARKS}.\n\n"] if texts else [])


def _sections(
    runs: Sequence[Run], gains: Sequence[Table], layouts: Sequence[Table]
) -> list[Section]:
    results = ordered_results(runs)
    usage, speed = usage_table(runs), speed_table(runs)
    weighted = [_weight_block(run) for run in runs if run.weights or run.series("weights/")]
    curves = [_curve_block(run) for run in runs if run.series("measurement/")]
    losses = {
        run.name: run.history["loss"]
        for run in runs
        if "loss" in run.history and not run.series("weights/")
    }
    return [
        Section(
            "results",
            "Results",
            seed_note(results),
            (Block("", (*result_tables(results), *gains)),) if results else (),
        ),
        Section(
            "layouts",
            "Layouts of the paper",
            "",
            (Block("", tuple(layouts)),) if layouts else (),
        ),
        Section("weights", "Domain weights", "", tuple(weighted)),
        Section("curves", "Measurement and losses of each domain", "", tuple(curves)),
        Section(
            "training",
            "Training curves",
            "",
            (Block("", (), (training_curves(losses, "training"),)),) if losses else (),
        ),
        Section("data", "Data used", "", (Block("", (usage,)),) if usage else ()),
        Section("speed", "Speed", "", (Block("", (speed,)),) if speed else ()),
    ]


def _weight_block(run: Run) -> Block:
    tables: list[Table] = []
    figures: list[Figure] = []
    if run.weights:
        tables += [weight_table(run.weights), concentration_table(run.weights)]
        figures.append(weight_bars(run.weights, f"bars {run.name}"))
    if trajectories := run.series("weights/"):
        figures.append(weight_trajectories(trajectories, f"trajectories {run.name}"))
    return Block(run.name, tuple(tables), tuple(figures))


def _curve_block(run: Run) -> Block:
    figures = [measurement_panels(run.series("measurement/"), f"measurement {run.name}")]
    proxy, reference = run.series("loss/proxy/"), run.series("loss/reference/")
    if proxy or reference:
        figures.append(loss_panels(proxy, reference, f"losses {run.name}"))
    health = {
        metric.replace("_", " "): run.history[metric]
        for metric in ("effective_domains", "max_over_min", "measurement_norm")
        if metric in run.history
    }
    if health:
        figures.append(health_curves(health, f"health {run.name}"))
    table = health_table(run)
    return Block(run.name, (table,) if table else (), tuple(figures))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = markdown_text
    environment.filters["markdown_table"] = markdown_table
    environment.filters["svg"] = lambda figure: Markup(figure.svg)
    environment.filters["duration"] = duration
    return environment


def duration(seconds: float) -> str:
    """Seconds as a person writes them: `42.0 s`, `3 min 20 s`, `4 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"
