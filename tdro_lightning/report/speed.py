"""How fast each training run was, and what held it up."""

from collections.abc import Callable, Sequence
from statistics import median

from tdro_lightning.report.runs import Run
from tdro_lightning.report.tables import NOTHING, Column, Table, cells

FIGURES: dict[str, tuple[str, str, Callable[[float], str]]] = {
    "passages_per_second": ("Passages", "a second", lambda value: f"{value:,.0f}"),
    "tokens_per_second": ("Tokens", "a second", lambda value: f"{value:,.0f}"),
    "padding": ("Padding", "of tokens", lambda value: f"{100 * value:.1f} %"),
    "at_limit": ("At limit", "of texts", lambda value: f"{100 * value:.1f} %"),
    "data_wait": ("Data wait", "of time", lambda value: f"{100 * value:.1f} %"),
    "mfu": ("MFU", "", lambda value: f"{100 * value:.1f} %"),
    "peak_memory_gb": ("GPU memory", "GB, largest", lambda value: f"{value:.1f}"),
}


def speed_table(runs: Sequence[Run]) -> Table | None:
    """A row a training run: the median step's figures, and the most GPU memory held."""
    measured = [run for run in runs if run.series("speed/")]
    if not measured:
        return None
    known = {name for run in measured for name in run.series("speed/")}
    figures = {name: figure for name, figure in FIGURES.items() if name in known}
    return Table(
        "Speed",
        "Median over the steps. Passages are counted without queries, tokens without padding. "
        "Texts at the limit of tokens have been cut, but for the few that just fit. Data wait is "
        "the share of the time in which the loader was waited for.",
        (Column("Run", numeric=False), *(Column(*figure[:2]) for figure in figures.values())),
        tuple(
            cells([run.name, *(_shown(run, name, how) for name, (_, _, how) in figures.items())])
            for run in measured
        ),
    )


def _shown(run: Run, name: str, how: Callable[[float], str]) -> str:
    curve = run.series("speed/").get(name)
    if curve is None:
        return NOTHING
    return how(max(curve.values) if name == "peak_memory_gb" else median(curve.values))
