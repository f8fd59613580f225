"""What a sweep came to, as a figure for the page and as lines for the terminal."""

from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes

from tdro_lightning.report.figures import Figure, figure_axes
from tdro_lightning.report.maps import run_map
from tdro_lightning.report.svg import colour, dashes, figure_style, inline_svg, short
from tdro_lightning.report.sweep_table import Point
from tdro_lightning.report.sweeps import Sweep
from tdro_lightning.report.tables import plain_text

WIDTH = 41  # characters between the lowest and the highest value on a terminal
Lines = dict[str, list[tuple[str, float]]]  # by name: value of the swept setting, result


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
        canvas, axes = figure_axes(3.0, left=0.65, right=1.95, bottom=0.42, top=0.13)
        axes.grid(axis="y")
        places = _places(axes, values)
        for number, (name, line) in enumerate(lines.items()):
            means = [(v, fmean(y for x, y in line if x == v)) for v in values if v in dict(line)]
            style = dashes(number) if _numeric(values) else "none"
            axes.plot(
                [places[v] for v, _ in means], [y for _, y in means], color=colour(number),
                linestyle=style, marker="o", markersize=5, label=short(name) if name else None,
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
        axes.set_xlabel(short(key, 60))
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
    ratios = {}
    for point in points:
        for run in point.runs:
            if run.weights:
                name = ", ".join(point.job.swept.values()) or run.name
                ratios[name] = {w.domain: w.last * len(run.weights) for w in run.weights}
    if not ratios:
        return None
    key = ", ".join(sweep.keys)
    caption = (
        "Last weight over the uniform weight, a column a job: blue gained in training, orange lost."
    )
    return run_map(ratios, f"Domain weights by {key}", caption)


def _main_key(sweep: Sweep) -> str:
    """The first swept setting that is no seed, else the seed."""
    return next((key for key in sweep.keys if key != "seed"), sweep.keys[0] if sweep.keys else "")


def _lines(sweep: Sweep, points: Sequence[Point]) -> Lines:
    """Results by the main setting, a line for each step and each value of other settings."""
    key = _main_key(sweep)
    found: Lines = {}
    for point in points:
        if point.score is not None:
            others = [v for k, v in point.job.swept.items() if k not in (key, "seed")]
            name = " ".join([point.step, *others]).strip()
            found.setdefault(name, []).append((point.job.swept.get(key, ""), point.score))
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
    axes.set_xticks(list(places.values()), [short(value, 20) for value in values])
    return places
