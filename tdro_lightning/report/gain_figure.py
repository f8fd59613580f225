"""The gains as one figure: differences from the baseline with their intervals."""

from collections.abc import Sequence

from tdro_lightning.report.figures import Figure, figure_axes
from tdro_lightning.report.gains import ABOVE, BELOW, Comparison, few_seeds
from tdro_lightning.report.svg import colour, figure_style, inline_svg, short
from tdro_lightning.report.tables import signed
from tdro_lightning.report.trials import Trial


def gain_figure(comparisons: Sequence[Comparison], title: str) -> Figure | None:
    """A row a trained retriever, the largest gain on top; None where nothing is compared.

    Args:
        comparisons: by one metric.
        title: what the metric is called.
    """
    shown = [one for one in comparisons if one.trial.trained]
    if not shown:
        return None
    shown.sort(key=lambda one: (one.average.difference, one.trial.name))
    with figure_style("gains"):
        height = 0.6 + 0.24 * len(shown)
        canvas, axes = figure_axes(height, left=2.1, right=0.6, bottom=0.42, top=0.15)
        axes.axvline(0, color=colour(6), linestyle="--", linewidth=1)
        for row, one in enumerate(shown):
            gain = one.average
            hue = colour({ABOVE: 0, BELOW: 1}.get(gain.mark, 6))
            if gain.test and gain.test.low is not None and gain.test.high is not None:
                axes.plot([gain.test.low, gain.test.high], [row, row], color=hue, linewidth=2)
            if len(one.by_seed) > 1:
                for difference in one.by_seed.values():
                    axes.plot([difference, difference], [row - 0.2, row + 0.2], color=hue)
            axes.plot([gain.difference], [row], color=hue, marker="o", markersize=5)
            axes.annotate(
                f"{signed(gain.difference)}{gain.mark}".replace("-", "−"), (gain.difference, row),
                xytext=(0, 5), textcoords="offset points", ha="center",
            )  # fmt: skip
        axes.set_yticks(range(len(shown)), [short(one.trial.name, 30) for one in shown])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(shown) - 0.2)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"difference in {title} × 100 from {_names(shown)}")
        svg = inline_svg(canvas, f"Gain in {title} of each retriever over its baseline")
    seeds = "; short strokes are single seeds" if any(len(c.by_seed) > 1 for c in shown) else ""
    return Figure(
        f"Gain in {title} over the baseline",
        f"Average over the sets. Lines are 95 % intervals over queries{seeds}. Blue and * is "
        "significantly above the baseline, orange and † significantly below, grey neither. "
        f"{few_seeds(shown)}".strip(),
        svg,
    )


def _names(comparisons: Sequence[Comparison]) -> str:
    baselines: dict[str, Trial] = {one.baseline.name: one.baseline for one in comparisons}
    return short(next(iter(baselines))) if len(baselines) == 1 else "the baseline"
