"""Heat maps of domains against uniform: over the steps of a run, and over runs."""

import bisect
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator

from tdro_lightning.report.figures import WIDTH, Figure, figure_axes
from tdro_lightning.report.runs import Series
from tdro_lightning.report.svg import colour, figure_style, inline_svg, shorten

COLUMNS = 100  # at most so many columns over the steps
FACTORS = (1.1, 1.5, 2.0, 4.0)  # a deeper shade from each on
SHADES = (0.06, 0.24, 0.45, 0.7, 1.0)
UNDER_TEXT = (0.06, 0.18, 0.33, 0.48, 0.64)  # text stays readable on each
Box = tuple[float, float, float, float]  # left, bottom, width, height


def shade(ratio: float) -> int:
    """0 within 10 % of uniform, then 1 to 4 above and -1 to -4 below, by `FACTORS`."""
    if ratio <= 0:
        return -len(FACTORS)
    level = bisect.bisect_right(FACTORS, max(ratio, 1 / ratio))
    return level if ratio > 1 else -level


def step_map(series: Mapping[str, Series], salt: str) -> Figure:
    """A row a domain, a column a range of steps: the weight against the uniform one."""
    ordered = sorted(series, key=lambda name: (-series[name].values[-1], name))
    steps = next(iter(series.values())).steps
    size = math.ceil(len(steps) / COLUMNS)
    starts = [*range(0, len(steps), size), len(steps)]
    edges = [*(steps[i] - 0.5 for i in starts[:-1]), steps[-1] + 0.5]
    boxes: dict[int, list[Box]] = defaultdict(list)
    for row, name in enumerate(ordered):
        means = [fmean(series[name].values[a:b]) for a, b in pairwise(starts)]
        levels = [shade(mean * len(series)) for mean in means]
        columns = zip(levels, pairwise(edges), strict=True)
        for level, neighbours in groupby(columns, itemgetter(0)):  # those of one shade are one box
            ends = [edge for _, column in neighbours for edge in column]
            boxes[level].append((ends[0], row + 0.04, ends[-1] - ends[0], 0.92))
    with figure_style(salt):
        canvas, axes = _axes(ordered, bottom=0.72)
        _fill(axes, boxes, SHADES)
        axes.set_xlim(edges[0], edges[-1])
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("step")
        _legend(axes, len(ordered), 0.42, SHADES)
        svg = inline_svg(canvas, "Heat map of domain weights over the steps")
    return Figure(
        "Weights by step and domain",
        f"Blue: above the uniform weight 1/{len(series)}; orange: below; the deeper, the further. "
        "The domains with the largest last weight stand on top"
        + (f"; each column is the mean of {size} logged steps." if size > 1 else "."),
        svg,
    )


def run_map(ratios: Mapping[str, Mapping[str, float]], title: str, caption: str) -> Figure:
    """A row a domain, a column a run.

    Args:
        ratios: {run: {domain: value over the uniform one}}; a run may lack a domain.
        title: also the description for readers who do not see the figure.
        caption: what the values are.
    """
    own: dict[str, list[float]] = defaultdict(list)
    for name, ratio in (item for run in ratios.values() for item in run.items()):
        own[name].append(ratio)
    ordered = sorted(own, key=lambda name: (-fmean(own[name]), name))
    longest = max(len(shorten(name, 30)) for name in ratios)
    level = longest * len(ratios) <= 70  # the names stand side by side
    with figure_style(title):
        canvas, axes = _axes(ordered, bottom=0.4, top=0.25 if level else 0.2 + 0.055 * longest)
        boxes: dict[int, list[Box]] = defaultdict(list)
        for column, values in enumerate(ratios.values()):
            for name, ratio in values.items():
                row = ordered.index(name)
                boxes[shade(ratio)].append((column + 0.03, row + 0.04, 0.94, 0.92))
                text = f"{ratio:.2f}".removesuffix("0") if ratio else "0"
                if len(ratios) <= 12:
                    axes.text(column + 0.5, row + 0.52, text, ha="center", va="center_baseline")
        _fill(axes, boxes, UNDER_TEXT)
        axes.set_xlim(0, len(ratios))
        axes.xaxis.tick_top()
        turned = {"ha": "center"} if level else {"rotation": 40, "ha": "left"}
        places = [column + 0.5 for column in range(len(ratios))]
        axes.set_xticks(places, [shorten(name, 30) for name in ratios], **turned)
        axes.tick_params(axis="x", length=0, pad=1)
        _legend(axes, len(ordered), 0.12, UNDER_TEXT)
        svg = inline_svg(canvas, title)
    return Figure(title, caption, svg)


def _axes(rows: Sequence[str], *, bottom: float, top: float = 0.1) -> tuple[Canvas, Axes]:
    height = bottom + top + 0.19 * len(rows)
    canvas, axes = figure_axes(height, left=1.75, right=0.6, bottom=bottom, top=top)
    axes.set_ylim(len(rows), 0)
    axes.set_yticks([row + 0.5 for row in range(len(rows))], [shorten(name) for name in rows])
    axes.tick_params(axis="y", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return canvas, axes


def _fill(axes: Axes, boxes: Mapping[int, Sequence[Box]], shades: Sequence[float]) -> None:
    """One path a shade, with all boxes in it, which keeps the page small."""
    for level, found in sorted(boxes.items()):
        corners = [
            (left + width * x, bottom + height * y)
            for left, bottom, width, height in found
            for x, y in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))
        ]
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(found)
        axes.add_patch(PathPatch(Path(corners, codes), zorder=0, **_look(level, shades)))


def _legend(axes: Axes, rows: int, below: float, shades: Sequence[float]) -> None:
    """A row of shades `below` inches under the axes, with what they stand for."""
    unit = 1 / (0.19 * rows)
    lower, higher = [f"≤ 1/{f:g}" for f in reversed(FACTORS)], [f"≥ {f:g}×" for f in FACTORS]
    width = 0.55 / (WIDTH - 2.35)
    for i, text in enumerate([*lower, "within 10 %", *higher]):
        place = (i * width, -(below + 0.12) * unit)
        axes.add_patch(
            Rectangle(
                place, width * 0.94, 0.1 * unit, transform=axes.transAxes, clip_on=False,
                **_look(i - len(FACTORS), shades),
            )
        )  # fmt: skip
        axes.text(
            place[0] + width * 0.47, place[1] - 0.12 * unit, text,
            transform=axes.transAxes, ha="center", va="baseline", fontsize=6.5,
        )  # fmt: skip


def _look(level: int, shades: Sequence[float]) -> dict[str, Any]:
    hue = colour(6 if level == 0 else 0 if level > 0 else 1)
    return {"facecolor": hue, "edgecolor": "none", "alpha": shades[abs(level)]}
