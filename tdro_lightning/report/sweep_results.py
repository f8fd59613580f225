"""What a sweep came to: a table, a figure, and lines for the terminal."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes

from tdro_lightning.report.figures import Figure, curve_axes
from tdro_lightning.report.gains import BaselineComparison
from tdro_lightning.report.maps import run_map
from tdro_lightning.report.results import TITLES, UNTRAINED, Result
from tdro_lightning.report.runs import RetrieverScores, Run
from tdro_lightning.report.svg import colour, dashes, figure_style, inline_svg, shorten
from tdro_lightning.report.sweeps import Job, Sweep
from tdro_lightning.report.tables import (
    NOTHING,
    Column,
    Table,
    cells,
    format_difference,
    format_number,
    plain_text,
)
from tdro_lightning.report.training_tables import (
    effective_domains,
    last_loss,
    relative_weights,
    sorted_weights,
)

WIDTH = 41  # characters between the lowest and the highest value on a terminal
Lines = dict[str, list[tuple[str, float]]]  # by name: value of the swept setting, result


@dataclass(frozen=True)
class Point:
    """What a job came to: one trained retriever, or none.

    Attributes:
        step: the name of the chain's step, empty outside chains.
        score: average times 100 over the sets on which all retrievers of the sweep were evaluated.
        gain: difference from the baseline of the same seed, with a mark of significance.
    """

    job: Job
    runs: Sequence[Run]
    step: str = ""
    score: float | None = None
    gain: tuple[float, str] | None = None


def sweep_points(
    sweep: Sweep, runs: Sequence[Run], comparisons: Sequence[BaselineComparison], metric: str | None
) -> list[Point]:
    """What every job came to, in the order of the jobs."""
    owned = [
        [run for run in runs if job.folder and run.folder.is_relative_to(job.folder)]
        for job in sweep.jobs
    ]
    trained = [
        [
            (run, one)
            for run in own
            for one in run.retrievers
            if metric is not None and one.label.casefold() not in UNTRAINED
        ]
        for own in owned
    ]
    every = [one for entries in trained for _, one in entries]
    shared = [name for one in every[:1] for name in one.sets if all(name in o.sets for o in every)]
    points: list[Point] = []
    for job, own, entries in zip(sweep.jobs, owned, trained, strict=True):
        scored = [
            Point(
                job,
                own,
                _step(run, job),
                Result.of_run(run, one).average(shared, metric or ""),
                _gain(run, one, comparisons),
            )
            for run, one in entries
        ]
        points += scored or [Point(job, own)]
    return points


def sweep_table(sweep: Sweep, points: Sequence[Point], metric: str | None) -> Table:
    """A row a job, or a row a trained retriever of a job; columns that say nothing are left out."""
    learned = [next((run for run in point.runs if run.weights), None) for point in points]
    losses = [[last_loss(run) for run in p.runs if "loss" in run.history] for p in points]
    seconds = [[run.seconds for run in p.runs if run.seconds is not None] for p in points]
    scored = any(point.score is not None for point in points)
    columns = [
        *(
            (
                Column(key.rpartition(".")[2], key.rpartition(".")[0], numeric=False),
                [point.job.swept.get(key, NOTHING) for point in points],
                True,
            )
            for key in sweep.keys
        ),
        (Column("Job", numeric=False), [_ending(point.job) for point in points], True),
        (
            Column("Retriever", numeric=False),
            [point.step or NOTHING for point in points],
            any(point.step for point in points),
        ),
        (
            Column(TITLES.get(metric or "", ""), "average"),
            [format_number(point.score, ".1f") for point in points],
            scored,
        ),
        (
            Column("Gain"),
            [format_difference(p.gain[0]) + p.gain[1] if p.gain else NOTHING for p in points],
            scored,
        ),
        (
            Column("Effective domains"),
            [effective_domains(run) if run else NOTHING for run in learned],
            any(learned),
        ),
        (
            Column("Largest weight"),
            [_largest_weight(run) if run else NOTHING for run in learned],
            any(learned),
        ),
        (Column("Loss", "at the end"), [(own or [NOTHING])[-1] for own in losses], any(losses)),
        (
            Column("Minutes"),
            [format_number(sum(own) / 60 if own else None, ".1f") for own in seconds],
            True,
        ),
    ]
    shown = [(column, texts) for column, texts, filled in columns if filled]
    failed = sum(job.status != "finished" for job in sweep.jobs)
    return Table(
        f"Sweep over {', '.join(sweep.keys) or 'nothing'}",
        f"{len(sweep.jobs)} jobs in {sweep.folder.as_posix()}, {failed or 'none'} of them not "
        "finished. Averages are over the sets that all have. Gain is the difference from the "
        "baseline of the same seed; * and † as in the table of gains, each of one seed.",
        tuple(column for column, _ in shown),
        tuple(cells(row) for row in zip(*(texts for _, texts in shown), strict=True)),
    )


def _ending(job: Job) -> str:
    return ": ".join([job.status, *job.error.strip().splitlines()[:1]])


def _largest_weight(run: Run) -> str:
    top = sorted_weights(run.weights)[0]
    return f"{top.domain} {top.last:.3f}"


def _step(run: Run, job: Job) -> str:
    """Where in the job's folder the run is: a step of a chain, or the job itself."""
    assert job.folder is not None
    place = run.folder.relative_to(job.folder).as_posix()
    return "" if place == "." else plain_text(place)


def _gain(
    run: Run, retriever: RetrieverScores, comparisons: Sequence[BaselineComparison]
) -> tuple[float, str] | None:
    for one in comparisons:
        if one.result.by_seed.get(run.seed) == retriever and run.seed in one.by_seed:
            mark = one.average.mark if len(one.by_seed) == 1 else ""
            return one.by_seed[run.seed], mark
    return None


def sweep_figure(
    sweep: Sweep, points: Sequence[Point], metric: str, baseline: float | None
) -> Figure | None:
    """Scores by the swept setting; without scores the learned weights, or None without these.

    Args:
        sweep: the plan.
        points: what its jobs came to.
        metric: what scores are called.
        baseline: average score of the baseline, if the jobs share one.
    """
    lines = _lines(sweep, points)
    if not lines:
        return _weights(sweep, points)
    key = _main_key(sweep)
    values = list(dict.fromkeys(value for line in lines.values() for value, _ in line))
    with figure_style("sweep"):
        canvas, axes = curve_axes(2.45)
        places = _places(axes, values)
        for number, (name, line) in enumerate(lines.items()):
            means = [(v, fmean(y for x, y in line if x == v)) for v in values if v in dict(line)]
            style = dashes(number) if _numeric(values) else "none"
            axes.plot(
                [places[v] for v, _ in means], [y for _, y in means], color=colour(number),
                linestyle=style, marker="o", markersize=5, label=shorten(name) if name else None,
            )  # fmt: skip
            axes.plot(
                [places[v] for v, _ in line], [y for _, y in line], color=colour(number),
                linestyle="none", marker="_", markersize=9,
            )  # fmt: skip
        if baseline is not None:
            axes.axhline(baseline, color=colour(6), linestyle="--", linewidth=1)
            axes.annotate(
                f"baseline {baseline:.1f}", (1, baseline), xytext=(6, -3),
                xycoords=("axes fraction", "data"), textcoords="offset points",
            )  # fmt: skip
        if any(lines):
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=7)
        axes.set_xlabel(shorten(key, 60))
        axes.set_ylabel(f"{metric} × 100, average")
        svg = inline_svg(canvas, f"{metric} by {key}")
    return Figure(
        f"{metric} by {key}",
        "Dots are means over jobs with the same value, strokes single jobs. The dashed line is "
        "the baseline, where the jobs share one.",
        svg,
    )


def sweep_lines(points: Sequence[Point], baseline: float | None) -> str:
    """The plot for a terminal: a line a job with its score on a common scale."""
    shown = [
        (" ".join(filter(None, [*p.job.swept.values(), p.step])), p.score)
        for p in points
        if p.score is not None
    ]
    if not shown:
        return ""
    low, high = (end(y for _, y in [*shown, ("", baseline or shown[0][1])]) for end in (min, max))
    width = max(len(plain_text(name)) for name, _ in shown)

    def place(value: float) -> int:
        return round((value - low) / (high - low or 1) * (WIDTH - 1))

    lines = []
    for name, score in shown:
        scale = ["·"] * WIDTH
        if baseline is not None:
            scale[place(baseline)] = "|"
        scale[place(score)] = "●"
        lines.append(f"{plain_text(name):>{width}}  {''.join(scale)} {score:.1f}")
    end = f"  | is the baseline, {baseline:.1f}" if baseline is not None else ""
    return "\n".join([f"{' ':{width}}  {low:<{WIDTH - 5}.1f}{high:>5.1f}{end}", *lines])


def _weights(sweep: Sweep, points: Sequence[Point]) -> Figure | None:
    weights = {
        ", ".join(point.job.swept.values()) or run.name: run.weights
        for point in points
        for run in point.runs
        if run.weights
    }
    caption = (
        "Last weight over the uniform weight, a column a job: blue gained in training, orange lost."
    )
    title = f"Domain weights by {', '.join(sweep.keys)}"
    return run_map(relative_weights(weights), title, caption) if weights else None


def _main_key(sweep: Sweep) -> str:
    """The first swept setting that is no seed, else the seed."""
    return next((key for key in sweep.keys if key != "seed"), sweep.keys[0] if sweep.keys else "")


def _lines(sweep: Sweep, points: Sequence[Point]) -> Lines:
    """Results by the main setting, a line for each step and each value of other settings."""
    key = _main_key(sweep)
    found: Lines = defaultdict(list)
    for point in points:
        if point.score is not None:
            others = [v for k, v in point.job.swept.items() if k not in (key, "seed")]
            name = " ".join([point.step, *others]).strip()
            found[name].append((point.job.swept.get(key, ""), point.score))
    return found


def _numeric(values: Sequence[str]) -> bool:
    try:
        return all(float(value) == float(value) for value in values)
    except ValueError:
        return False


def _places(axes: Axes, values: Sequence[str]) -> dict[str, float]:
    """Where on the horizontal axis each value is; labels the axis."""
    numeric = _numeric(values)
    places = {v: float(v) if numeric else float(i) for i, v in enumerate(values)}
    if numeric and min(places.values()) > 0 and max(places.values()) > 9 * min(places.values()):
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(list(places.values()), [shorten(value, 20) for value in values])
    return places
