"""Whether a tDRO run was healthy: guards, absences, and how steady the reference was."""

from collections.abc import Sequence
from statistics import pstdev

from tdro_lightning.report.runs import Run, Series
from tdro_lightning.report.tables import NOTHING, Column, Table, cells


def health_table(run: Run) -> Table | None:
    """A row a domain: guarded share, absent steps, early and late reference loss."""
    measured, guarded = run.series("measurement/"), run.series("guarded/")
    reference = run.series("loss/reference/")
    if not measured:
        return None
    steps = max(len(curve.steps) for curve in measured.values())
    return Table(
        "Guards and reference",
        "Guarded: share of steps (or samples) in which the guard on small reference losses acted. "
        "Absent: steps without a row of the domain. Reference loss: mean over the first and the "
        "last tenth of the steps; it is frozen, so a change is the data's. Spread: standard "
        "deviation over the steps, divided by the mean; a measurement that divides by a loss of "
        "large spread is as unsteady.",
        (
            Column("Domain", numeric=False),
            Column("Guarded"),
            Column("Absent", f"of {steps}"),
            Column("Reference loss", "first tenth"),
            Column("Reference loss", "last tenth"),
            Column("Spread", "of its mean"),
        ),
        tuple(
            cells(
                [
                    domain,
                    _share(guarded.get(domain)),
                    str(steps - len(curve.steps)),
                    *_ends(reference.get(domain)),
                ]
            )
            for domain, curve in measured.items()
        ),
    )


def _share(curve: Series | None) -> str:
    return NOTHING if curve is None else f"{100 * _mean(curve.values):.0f} %"


def _ends(curve: Series | None) -> tuple[str, str, str]:
    if curve is None:
        return NOTHING, NOTHING, NOTHING
    tenth = max(1, len(curve.values) // 10)
    mean = _mean(curve.values)
    spread = f"{pstdev(curve.values) / mean:.2f}" if mean > 0 else NOTHING
    return f"{_mean(curve.values[:tenth]):.3f}", f"{_mean(curve.values[-tenth:]):.3f}", spread


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
