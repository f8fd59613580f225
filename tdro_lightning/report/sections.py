"""The parts of a report, each with its tables and figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from tdro_lightning.report.alarm_tables import alarm_headline, alarm_table
from tdro_lightning.report.alarms import Changes
from tdro_lightning.report.data_view import view_tables, view_warnings
from tdro_lightning.report.dev_curves import validation_curves
from tdro_lightning.report.figures import (
    Figure,
    gain_figure,
    health_curves,
    loss_panels,
    measurement_panels,
    training_curves,
    weight_bars,
    weight_trajectories,
)
from tdro_lightning.report.gains import BaselineComparison
from tdro_lightning.report.maps import run_map, step_map
from tdro_lightning.report.result_tables import gain_tables, score_tables, seed_note
from tdro_lightning.report.results import TITLES, Result
from tdro_lightning.report.runs import Run
from tdro_lightning.report.sparse_vectors import (
    example_tables,
    term_curves,
    vector_tables,
    vectors_of,
)
from tdro_lightning.report.sweep_plots import sweep_figure, sweep_lines
from tdro_lightning.report.sweep_results import baseline_scores, sweep_points, sweep_table
from tdro_lightning.report.sweeps import Sweep
from tdro_lightning.report.tables import Table, plain_text, terminal_table
from tdro_lightning.report.training_tables import (
    concentration_table,
    health_table,
    relative_weights,
    run_table,
    speed_table,
    usage_table,
    weight_table,
)

OPEN = 2  # so many runs are shown in full; of more, those after the first are folded


@dataclass(frozen=True)
class Block:
    """Tables and figures that belong together, under a run's name where there is one."""

    heading: str
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the report with its own heading."""

    anchor: str
    heading: str
    note: str
    blocks: tuple[Block, ...]


def result_section(
    results: Sequence[Result],
    comparisons: Sequence[BaselineComparison],
    metric: str | None,
    changes: Sequence[Changes],
    alarm: float,
) -> Section:
    """Alarms, scores and gains: the main ones in sight, other metrics and single sets folded.

    Args:
        results: of each run.
        comparisons: by the metric.
        metric: the main one, None where nothing is evaluated.
        changes: on each set and domain.
        alarm: by how many points something falls that the alarms list.
    """
    title = TITLES.get(metric or "", "")
    scores, gains = score_tables(results), gain_tables(comparisons, title)
    each_set = [table for table in gains if "each set" in table.title]
    main = [*scores[:1], *(table for table in gains if table not in each_set)]
    figures = [
        gain_figure([one for one in comparisons if one.against == against], title)
        for against in dict.fromkeys(one.against for one in comparisons)
    ]
    folded = "Other metrics, and the gain on each set"
    blocks = (
        *_block([alarm_table(changes, alarm)]),
        *_block(main, figures),
        *_block([*scores[1:], *each_set], heading=folded),
    )
    note = f"{alarm_headline(changes, alarm)} {seed_note(results)}".strip()
    return Section("results", "Results", note, blocks if results else ())


def sweep_section(
    number: int,
    sweep: Sweep,
    runs: Sequence[Run],
    comparisons: Sequence[BaselineComparison],
    metric: str | None,
    asked: Sequence[str],
    alarm: float,
) -> tuple[Section, str]:
    """A sweep's table and plot, for the page and for the terminal.

    Args:
        number: of the sweep on the page.
        sweep: the plan.
        runs: those of its jobs, among others.
        comparisons: by the metric.
        metric: the main one, None where nothing is evaluated.
        asked: label, run or step of each baseline.
        alarm: by how many points a set falls that is counted.
    """
    points = sweep_points(sweep, runs, comparisons, metric, alarm)
    table = sweep_table(sweep, points, metric, asked, alarm)
    baselines = baseline_scores(points, asked)
    figure = sweep_figure(sweep, points, TITLES.get(metric or "", ""), baselines)
    blocks = _block([table], [figure])
    section = Section(f"sweep-{number}", "Sweep", f"Made by: {sweep.command}", blocks)
    text = f"{plain_text(table.title)}\n\n{terminal_table(table)}"
    lines = sweep_lines(points, baselines)
    return section, f"{text}\n\n{lines}" if lines else text


def run_sections(runs: Sequence[Run]) -> list[Section]:
    """What training did, from the runs' own files."""
    losses = {
        run.name: run.history["loss"]
        for run in runs
        if "loss" in run.history and not run.series("weights/")
    }
    weighted = [run for run in runs if run.weights or run.series("weights/")]
    weights = (*_block([], _weight_map(weighted)), *_folded([_weight_block(r) for r in weighted]))
    measured = [_curve_block(run) for run in runs if run.series("measurement/")]
    health = [Block(run.name, (table,)) for run in runs if (table := health_table(run))]
    curves = [training_curves(losses, "training")] if losses else []
    curves += validation_curves(runs)
    usage, speed, settings = usage_table(runs), speed_table(runs), run_table(runs)
    return [
        Section("weights", "Domain weights", "", weights),
        Section("curves", "Measurement and losses of each domain", "", _folded(measured)),
        Section("reference", "Reference stability", "", _folded(health)),
        Section("training", "Training curves", "", _block([], curves)),
        Section("data", "Data used", "", _block([usage], _usage_map(runs))),
        view_section(runs),
        Section("speed", "Throughput", "", _block([speed])),
        Section("runs", "Comparison of the runs", "", _block([settings])),
    ]


def view_section(runs: Sequence[Run]) -> Section:
    """What validations have seen of the domains; their worst rows are folded."""
    viewed = [run for run in runs if run.view]
    blocks: list[Block] = []
    for run in viewed:
        texts, pairs, *worst = view_tables(run.view, run.name) or (None, None)
        heading = run.name if len(viewed) > 1 else ""
        blocks += [Block(heading, (texts, pairs))] if texts and pairs else []
        blocks += _block(worst, heading=f"Worst rows of each domain, {run.name}")
    warnings = dict.fromkeys(text for run in viewed for text in view_warnings(run.view))
    return Section("view", "Data view", " ".join(warnings), tuple(blocks))


def sparse_section(results: Sequence[Result], runs: Sequence[Run]) -> Section:
    """What sparse vectors are: numbers in sight, the terms of some texts folded; else empty."""
    encoders = vectors_of(results)
    blocks = (
        *_block(vector_tables(encoders) if encoders else [], [term_curves(runs)]),
        *(
            block
            for name, sets in encoders.items()
            for block in _block(example_tables(name, sets), heading=f"Top terms of {name}")
        ),
    )
    return Section("sparse", "Sparse vectors", "", blocks)


def _block(
    tables: Sequence[Table | None], figures: Sequence[Figure | None] = (), heading: str = ""
) -> tuple[Block, ...]:
    """A block of those that there are, folded under its heading; none without any."""
    shown = tuple(table for table in tables if table), tuple(figure for figure in figures if figure)
    return (Block(heading, *shown, folded=bool(heading)),) if any(shown) else ()


def _folded(blocks: Sequence[Block]) -> tuple[Block, ...]:
    many = len(blocks) > OPEN
    return tuple(
        Block(block.heading, block.tables, block.figures, folded=many and number > 0)
        for number, block in enumerate(blocks)
    )


def _weight_map(runs: Sequence[Run]) -> list[Figure]:
    weighted = _by_short_name([run for run in runs if run.weights])
    ratios = relative_weights({name: run.weights for name, run in weighted.items()})
    caption = (
        "Last weight over the uniform weight: blue gained in training, orange lost. The domains "
        "with the largest mean stand on top."
    )
    title = "Last weights of all tDRO runs"
    return [run_map(ratios, title, caption)] if len(ratios) > 1 else []


def _usage_map(runs: Sequence[Run]) -> list[Figure]:
    ratios = {}
    for name, run in _by_short_name(runs).items():
        drawn = {usage.domain: usage.rows * usage.epochs for usage in run.usage}
        if total := sum(drawn.values()):
            ratios[name] = {domain: n * len(drawn) / total for domain, n in drawn.items()}
    caption = (
        "Rows drawn from the domain over those that it would have if all domains had equally many. "
        "0: the domain was left out."
    )
    title = "Share of each domain in the data of all runs"
    return [run_map(ratios, title, caption)] if len(ratios) > 1 else []


def _by_short_name(runs: Sequence[Run]) -> dict[str, Run]:
    """The runs by their name without the chain, where that leaves them different."""
    short = {run.step: run for run in runs}
    return short if len(short) == len(runs) else {run.name: run for run in runs}


def _weight_block(run: Run) -> Block:
    found, curves, name = run.weights, run.series("weights/"), run.name
    tables = (weight_table(found), concentration_table(found)) if found else ()
    bars = (weight_bars(found, f"bars {name}"),) if found else ()
    steps = (
        (weight_trajectories(curves, f"trajectories {name}"), step_map(curves, f"map {name}"))
        if curves
        else ()
    )
    return Block(name, tables, (*bars, *steps))


def _curve_block(run: Run) -> Block:
    proxy, reference = run.series("loss/proxy/"), run.series("loss/reference/")
    health = {
        metric.replace("_", " "): run.history[metric]
        for metric in ("effective_domains", "max_over_min", "measurement_norm")
        if metric in run.history
    }
    figures = (
        measurement_panels(run.series("measurement/"), f"measurement {run.name}"),
        loss_panels(proxy, reference, f"losses {run.name}") if proxy or reference else None,
        health_curves(health, f"health {run.name}") if health else None,
    )
    return Block(run.name, (), tuple(figure for figure in figures if figure))
