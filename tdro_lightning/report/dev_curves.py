"""Curves of the scores on dev sets while runs trained, with the steps that they kept."""

from collections.abc import Sequence

from tdro_lightning.report.figures import Figure, line_figure, thin_curves
from tdro_lightning.report.runs import Run

METRICS = {"ndcg@10": "nDCG@10", "loss": "Loss"}  # of a dev set, and their titles


def validation_curves(runs: Sequence[Run]) -> list[Figure]:
    """A figure for each metric, a line a run; a dot is the step that the run has kept."""
    found = []
    for metric, title in METRICS.items():
        name = f"validation/{metric}"
        measured = {run.name: run for run in runs if name in run.history}
        if not measured:
            continue
        curves = {label: run.history[name] for label, run in measured.items()}
        points = {label: _kept_point(run, name) for label, run in measured.items()}
        marks = {label: point for label, point in points.items() if point is not None}
        text = f"{title} on the dev set over the steps"
        svg = line_figure(thin_curves(curves), title, text, f"validation {metric}", marks=marks)
        caption = (
            "While training, on queries that no training has seen. A dot is the step that the run "
            "has kept. Runs with different dev sets cannot be compared."
        )
        found.append(Figure(f"{title} on the dev set", caption, svg))
    return found


def _kept_point(run: Run, name: str) -> tuple[int, float] | None:
    """Step and value of a curve at the step that the run has kept; steps count from 0 there."""
    curve = run.history[name]
    values = dict(zip(curve.steps, curve.values, strict=True))
    step = -1 if run.best_step is None else run.best_step - 1
    return (step, values[step]) if step in values else None
