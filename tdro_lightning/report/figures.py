"""Figures of the report, each an SVG element for the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from tdro_lightning.report.gains import ABOVE, BELOW, BaselineComparison, few_seeds_warning
from tdro_lightning.report.runs import DomainWeight, Series
from tdro_lightning.report.svg import (
    DASHES,
    colour,
    dashes,
    figure_style,
    inline_svg,
    shorten,
    spread_labels,
)
from tdro_lightning.report.tables import format_difference
from tdro_lightning.report.training_tables import sorted_weights

WIDTH = 8.0  # inches; 72 units of the view box each
LINE = 0.165  # height in inches of one line of labels
POINTS = 200  # at most so many points a curve
PANELS = 5  # small multiples in a row


@dataclass(frozen=True)
class Figure:
    """A title, a caption that says what the reader sees, and one `<svg>` element."""

    title: str
    caption: str
    svg: str


def weight_bars(weights: Sequence[DomainWeight], salt: str) -> Figure:
    """A bar a domain for its last weight, largest on top, against the uniform weight."""
    ordered = sorted_weights(weights)[::-1]
    uniform = 1 / len(ordered)
    names = [shorten(weight.domain) for weight in ordered]
    with figure_style(salt):
        canvas, axes = _row_axes(names, uniform, row=0.19, left=1.75)
        axes.barh(
            range(len(ordered)),
            [weight.last for weight in ordered],
            height=0.66,
            color=[colour(0 if weight.last >= uniform else 1) for weight in ordered],
        )
        axes.set_xlim(left=0)
        for place, weight in enumerate(ordered):
            axes.annotate(
                f"{weight.last:.4f}",
                (max(weight.last, uniform), place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_xlabel("domain weight at the last step")
        svg = inline_svg(canvas, "Bar chart of the last weight of each domain")
    return Figure(
        "Last weights against uniform",
        f"The dashed line is the uniform weight 1/{len(ordered)} = {uniform:.4f}. Domains to its "
        "right gained weight in training, domains to its left lost it.",
        svg,
    )


def weight_trajectories(series: Mapping[str, Series], salt: str) -> Figure:
    """A line a domain for its weight over the steps, on a logarithmic axis."""
    description = "Weights of all domains over the steps"
    return Figure(
        "Weights over the steps",
        "One line a domain, named at its last step. The vertical axis is logarithmic: equal "
        "distances are equal ratios.",
        line_figure(thin_curves(series), "domain weight", description, salt, logarithmic=True),
    )


def health_curves(series: Mapping[str, Series], salt: str) -> Figure:
    """Lines for how concentrated the weights are and how large the measurement is."""
    description = "Concentration and measurement norm by step"
    return Figure(
        "Concentration and measurement norm",
        "Effective domains: exponential of the weights' entropy. Max over min: largest weight over "
        "the smallest. Measurement norm: L2 norm over "
        "the domains before normalisation. The vertical axis is logarithmic.",
        line_figure(thin_curves(series), "value", description, salt, logarithmic=True),
    )


def training_curves(series: Mapping[str, Series], salt: str) -> Figure:
    """A line a fine-tuning run for its loss over the steps."""
    smooth = {run: _averaged(curve) for run, curve in series.items()}
    return Figure(
        "Loss of the fine-tuning runs",
        f"Contrastive loss over the optimiser steps, one line a run{_smoothing(series)}. Losses "
        "of runs with different domain weights are over different data.",
        line_figure(smooth, "loss", "Loss of all fine-tuning runs over the steps", salt),
    )


def measurement_panels(series: Mapping[str, Series], salt: str) -> Figure:
    """A panel a domain for the loss measurement that drives its weight."""
    return Figure(
        "Loss measurement of each domain",
        "Domains with a larger measurement than others gain weight. All panels share their "
        f"axes; the horizontal axis counts steps{_smoothing(series)}.",
        _panels([series], "Loss measurement of each domain over the steps", salt),
    )


def loss_panels(proxy: Mapping[str, Series], reference: Mapping[str, Series], salt: str) -> Figure:
    """A panel a domain for the losses of the proxy and of the frozen reference."""
    return Figure(
        "Proxy and reference loss of each domain",
        "Solid: the proxy in training. Dashed: the frozen reference on the same examples. All "
        f"panels share their axes; the horizontal axis counts steps{_smoothing(proxy)}.",
        _panels([proxy, reference], "Proxy and reference loss of each domain over the steps", salt),
    )


def gain_figure(comparisons: Sequence[BaselineComparison], title: str) -> Figure | None:
    """A row a trained retriever, the largest gain on top; None where nothing is compared.

    Args:
        comparisons: by one metric, with one baseline or those of several models.
        title: what the metric is called.
    """
    shown = [one for one in comparisons if one.result.trained]
    if not shown:
        return None
    shown.sort(key=lambda one: (one.average.difference, one.result.name))
    several = any(len(one.by_seed) > 1 for one in shown)
    with figure_style(f"gains {shown[0].against}"):
        names = [shorten(one.result.name, 30) for one in shown]
        canvas, axes = _row_axes(names, 0, row=0.24, left=2.1)
        for row, one in enumerate(shown):
            gain = one.average
            hue = colour({ABOVE: 0, BELOW: 1}.get(gain.mark, 6))
            if gain.test and gain.test.low is not None and gain.test.high is not None:
                axes.plot([gain.test.low, gain.test.high], [row, row], color=hue, linewidth=2)
            for difference in one.by_seed.values() if len(one.by_seed) > 1 else ():
                axes.plot([difference, difference], [row - 0.2, row + 0.2], color=hue)
            axes.plot([gain.difference], [row], color=hue, marker="o", markersize=5)
            axes.annotate(
                f"{format_difference(gain.difference)}{gain.mark}".replace("-", "−"),
                (gain.difference, row),
                xytext=(0, 5), textcoords="offset points", ha="center",
            )  # fmt: skip
        baselines = {one.baseline.name for one in shown}
        against = shorten(baselines.pop() if len(baselines) == 1 else shown[0].against or "each")
        axes.set_xlabel(f"difference in {title} × 100 from {against}")
        svg = inline_svg(canvas, f"Gain in {title} of each retriever over {against}")
    return Figure(
        f"Gain in {title} over {against}",
        "Average over the sets. Lines are 95 % intervals over queries"
        f"{'; short strokes are single seeds' if several else ''}. Blue and * is "
        "significantly above the baseline, orange and † significantly below, grey neither. "
        f"{few_seeds_warning(shown)}".strip(),
        svg,
    )


def _row_axes(names: Sequence[str], line: float, *, row: float, left: float) -> tuple[Canvas, Axes]:
    """Axes with a row for each name from the bottom up, and a dashed vertical line at a value.

    Args:
        names: of the rows.
        line: what they are compared with.
        row: height of a row in inches.
        left: margin for the names in inches.
    """
    height = 0.6 + row * len(names)
    canvas, axes = figure_axes(height, left=left, right=0.6, bottom=0.42, top=0.15)
    axes.axvline(line, color=colour(6), linestyle="--", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(names) - 0.2)
    axes.spines["left"].set_visible(False)
    return canvas, axes


def figure_axes(
    height: float, *, left: float, right: float, bottom: float, top: float
) -> tuple[Canvas, Axes]:
    """A figure of the page's width with one pair of axes; height and margins in inches."""
    canvas = Canvas(figsize=(WIDTH, height))
    box = (
        left / WIDTH,
        bottom / height,
        (WIDTH - left - right) / WIDTH,
        (height - bottom - top) / height,
    )
    return canvas, canvas.add_axes(box)


def curve_axes(inner: float) -> tuple[Canvas, Axes]:
    """Axes for curves with their names on the right; the height inside in inches."""
    canvas, axes = figure_axes(inner + 0.55, left=0.65, right=1.95, bottom=0.42, top=0.13)
    axes.grid(axis="y")
    return canvas, axes


def line_figure(
    series: Mapping[str, Series],
    quantity: str,
    description: str,
    salt: str,
    logarithmic: bool = False,
    marks: Mapping[str, tuple[int, float]] | None = None,
) -> str:
    """A line for each curve, with its name; `marks` are points of them."""
    with figure_style(salt):
        inner = max(2.6, LINE * len(series))
        canvas, axes = curve_axes(inner)
        for number, curve in enumerate(series.values()):
            axes.plot(curve.steps, curve.values, color=colour(number), linestyle=dashes(number))
        for name, (step, value) in (marks or {}).items():
            hue = colour([*series].index(name))
            axes.plot([step], [value], color=hue, marker="o", markersize=5)
        if logarithmic:
            _set_log_axis(axes, series)
        axes.margins(x=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel(quantity)
        _label_ends(axes, series, LINE / inner)
        return inline_svg(canvas, description)


def _set_log_axis(axes: Axes, series: Mapping[str, Series]) -> None:
    axes.set_yscale("log", nonpositive="mask")
    positive = [value for curve in series.values() for value in curve.values if value > 0]
    narrow = not positive or max(positive) < 10 * min(positive)
    axes.yaxis.set_major_locator(
        MaxNLocator(6) if narrow else LogLocator(subs=(1, 2, 5), numticks=12)
    )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _label_ends(axes: Axes, series: Mapping[str, Series], gap: float) -> None:
    to_axes = axes.transData + axes.transAxes.inverted()
    low = min(axes.get_ylim())
    ends = {}
    for name, curve in series.items():
        last = curve.values[-1] if math.isfinite(curve.values[-1]) else low
        ends[name] = to_axes.transform((curve.steps[-1], max(last, low)))
    labels = spread_labels({name: float(y) for name, (_, y) in ends.items()}, gap)
    for number, (name, (x, y)) in enumerate(ends.items()):
        place = labels[name]
        axes.add_line(
            Line2D(
                [x, 1.015, 1.04, 1.075],
                [y, y, place, place],
                color=colour(number),
                linestyle=dashes(number),
                linewidth=0.8,
                transform=axes.transAxes,
                clip_on=False,
            )
        )
        axes.text(
            1.085, place, shorten(name), transform=axes.transAxes, va="center_baseline", fontsize=7
        )


def _panels(kinds: Sequence[Mapping[str, Series]], description: str, salt: str) -> str:
    """A panel a domain; its curve of the first kind is solid, of the second one dashed."""
    domains = list(dict.fromkeys(domain for curves in kinds for domain in curves))
    columns = min(PANELS, len(domains))
    rows = math.ceil(len(domains) / columns)
    height = 0.45 + 1.1 * rows
    with figure_style(salt):
        canvas = Canvas(figsize=(WIDTH, height))
        grid = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        canvas.subplots_adjust(
            left=0.4 / WIDTH,
            right=1 - 0.2 / WIDTH,
            bottom=0.25 / height,
            top=1 - 0.2 / height,
            wspace=0.12,
            hspace=0.42,
        )
        for axes, domain in zip(grid.flat, domains, strict=False):
            axes.set_title(shorten(domain, 22), pad=3)
            axes.grid(axis="y")
            for number, curves in enumerate(kinds):
                if domain in curves:
                    smooth = _averaged(curves[domain])
                    axes.plot(
                        *(smooth.steps, smooth.values),
                        color=colour(number),
                        linestyle=DASHES[number],
                    )
            axes.margins(x=0)
            axes.xaxis.set_major_locator(MaxNLocator(2, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(3))
        for axes in grid.flat[len(domains) :]:
            axes.set_visible(False)
        for axes in grid.flat[len(domains) - columns : len(domains)]:
            axes.tick_params(labelbottom=True)
        return inline_svg(canvas, description)


def _bin(count: int) -> int:
    return math.ceil(count / POINTS)


def thin_curves(series: Mapping[str, Series]) -> dict[str, Series]:
    """Of each curve, every n-th point counted from the last one, which stays."""
    steps = {name: _bin(len(curve.steps)) for name, curve in series.items()}
    return {
        name: Series(curve.steps[:: -steps[name]][::-1], curve.values[:: -steps[name]][::-1])
        for name, curve in series.items()
    }


def _averaged(curve: Series) -> Series:
    """Means over n points each, at the last step of these."""
    size = _bin(len(curve.steps))
    bins = [curve.values[i : i + size] for i in range(0, len(curve.values), size)]
    steps = [curve.steps[i : i + size][-1] for i in range(0, len(curve.steps), size)]
    return Series(tuple(steps), tuple(sum(values) / len(values) for values in bins))


def _smoothing(series: Mapping[str, Series]) -> str:
    size = max((_bin(len(curve.steps)) for curve in series.values()), default=1)
    return f"; each point is the mean of {size} logged steps" if size > 1 else ""
