"""Tables of training runs: weights, data, settings, losses, guards and speed."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median, pstdev
from typing import Any

from tdro_lightning.report.runs import DomainWeight, Run
from tdro_lightning.report.svg import shorten
from tdro_lightning.report.tables import NOTHING, Column, Table, cells, format_number


def sorted_weights(weights: Sequence[DomainWeight]) -> list[DomainWeight]:
    """The domains by falling last weight, equal ones by name."""
    return sorted(weights, key=lambda weight: (-weight.last, weight.domain))


def relative_weights(
    runs: Mapping[str, Sequence[DomainWeight]],
) -> dict[str, dict[str, float]]:
    """Last weight of each domain over the uniform one, by the name of the run."""
    return {
        name: {weight.domain: weight.last * len(weights) for weight in weights}
        for name, weights in runs.items()
    }


def weight_table(weights: Sequence[DomainWeight]) -> Table:
    """A row a domain, sorted by the last weight."""
    uniform = 1 / len(weights)
    titles = ("Rows", "Uniform", "Last", "Mean", "EMA", "Change")
    return Table(
        "Weight of each domain",
        "Learned domain weights, largest first: at the last step, averaged over all steps, and "
        "as an exponential moving average. Change is the last weight divided by the uniform one.",
        (Column("Domain", numeric=False), *(Column(title) for title in titles)),
        tuple(
            cells(
                [
                    weight.domain,
                    f"{weight.rows:,}",
                    f"{uniform:.4f}",
                    f"{weight.last:.4f}",
                    format_number(weight.mean, ".4f"),
                    format_number(weight.ema, ".4f"),
                    f"{weight.last / uniform:.2f}×",
                ]
            )
            for weight in sorted_weights(weights)
        ),
    )


def concentration_table(weights: Sequence[DomainWeight]) -> Table:
    """How concentrated the weights are: sum, largest / smallest, entropy in nats, exp(entropy)."""
    kinds: dict[str, list[float]] = {
        "Uniform": [1 / len(weights)] * len(weights),
        "Last": [weight.last for weight in weights],
        "Mean": [weight.mean for weight in weights if weight.mean is not None],
        "EMA": [weight.ema for weight in weights if weight.ema is not None],
    }
    return Table(
        "Concentration",
        f"How far the weights are from uniform over {len(weights)} domains. The effective number "
        "of domains is the exponential of the entropy.",
        (
            Column("Weights", numeric=False),
            Column("Sum"),
            Column("Largest / smallest"),
            Column("Entropy", "nats"),
            Column("Effective domains"),
        ),
        tuple(
            cells(
                [
                    kind,
                    f"{math.fsum(values):.4f}",
                    f"{max(values) / min(values):,.1f}" if min(values) > 0 else "∞",
                    f"{entropy(values):.3f}",
                    f"{math.exp(entropy(values)):.1f}",
                ]
            )
            for kind, values in kinds.items()
            if len(values) == len(weights)
        ),
    )


def entropy(weights: Sequence[float]) -> float:
    """Shannon entropy in nats, -Σ p log p with 0 log 0 = 0."""
    return 0.0 - math.fsum(p * math.log(p) for p in weights if p > 0)


def usage_table(runs: Sequence[Run]) -> Table | None:
    """A row a domain, a column a training run, in epochs; None where no run drew data."""
    trained = [run for run in runs if run.usage]
    if not trained:
        return None
    rows = {usage.domain: usage.rows for run in trained for usage in run.usage}
    epochs = [{usage.domain: usage.epochs for usage in run.usage} for run in trained]
    return Table(
        "Epochs of each domain",
        "How often training drew the rows of each domain: 1.00 is every row once on average. "
        "A dash means that the run did not have the domain.",
        (
            Column("Domain", numeric=False),
            Column("Rows"),
            *(Column(run.name) for run in trained),
        ),
        tuple(
            cells(
                [
                    domain,
                    f"{count:,}",
                    *(f"{run[domain]:.2f}" if domain in run else NOTHING for run in epochs),
                ]
            )
            for domain, count in rows.items()
        ),
    )


# Names, places and what does not belong to a training run.
NOT_SETTINGS = ("name", "run_dir", "chain_dir", "description", "stage", "chain", "logger", "seed")


def run_table(runs: Sequence[Run]) -> Table | None:
    """A row a training run; None where there is none or one."""
    trained = [run for run in runs if run.history]
    if len(trained) < 2:
        return None
    settings = [
        _settings({key: value for key, value in run.config.items() if key not in NOT_SETTINGS})
        for run in trained
    ]
    keys = list(dict.fromkeys(key for own in settings for key in own))
    differing = [key for key in keys if len({str(s[key]) for s in settings if key in s}) > 1]
    return Table(
        "Training runs",
        "Loss is the mean over the last tenth of the steps; effective domains is the exponential "
        "of the last weights' entropy. Then every setting in which runs that have it differ.",
        (
            Column("Run", numeric=False),
            *(Column("Seed"), Column("Minutes")),
            *(Column("Loss", "at the end"), Column("Effective domains")),
            *(Column(key.rpartition(".")[2], key.rpartition(".")[0]) for key in differing),
        ),
        tuple(
            cells(
                [
                    run.name,
                    NOTHING if run.seed is None else str(run.seed),
                    NOTHING if run.seconds is None else f"{run.seconds / 60:.1f}",
                    last_loss(run),
                    effective_domains(run),
                    *(shorten(str(own[key]), 28) if key in own else NOTHING for key in differing),
                ]
            )
            for run, own in zip(trained, settings, strict=True)
        ),
    )


def last_loss(run: Run) -> str:
    """Mean of the loss over the last tenth of the steps, as text."""
    if "loss" not in run.history:
        return NOTHING
    values = run.history["loss"].values
    return f"{fmean(values[-max(1, len(values) // 10) :]):.3f}"


def effective_domains(run: Run) -> str:
    """Exponential of the last weights' entropy, as text."""
    return f"{math.exp(entropy([w.last for w in run.weights])):.1f}" if run.weights else NOTHING


def _settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted key, without those of the domains' catalogue."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and key != "catalogue":
            settings |= _settings(value, f"{prefix}{key}.")
        elif value is not None and not isinstance(value, Mapping):
            settings[f"{prefix}{key}"] = value
    return settings


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
                    f"{100 * fmean(guarded[domain].values):.0f} %"
                    if domain in guarded
                    else NOTHING,
                    str(steps - len(curve.steps)),
                    *(_ends(reference[domain].values) if domain in reference else [NOTHING] * 3),
                ]
            )
            for domain, curve in measured.items()
        ),
    )


def _ends(values: Sequence[float]) -> tuple[str, str, str]:
    """Means of the first and the last tenth, and the spread over the mean."""
    tenth, mean = max(1, len(values) // 10), fmean(values)
    spread = f"{pstdev(values) / mean:.2f}" if mean > 0 else NOTHING
    return f"{fmean(values[:tenth]):.3f}", f"{fmean(values[-tenth:]):.3f}", spread


FIGURES = {  # of a step: title and note of the column, and how values are shown
    "passages_per_second": ("Passages", "a second", "{:,.0f}"),
    "tokens_per_second": ("Tokens", "a second", "{:,.0f}"),
    "padding": ("Padding", "of tokens", "{:.1%}"),
    "at_limit": ("At limit", "of texts", "{:.1%}"),
    "data_wait": ("Data wait", "of time", "{:.1%}"),
    "mfu": ("MFU", "", "{:.1%}"),
    "peak_memory_gb": ("GPU memory", "GB, largest", "{:.1f}"),
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
            cells(
                [
                    run.name,
                    *(_figure(run, name, style) for name, (_, _, style) in figures.items()),
                ]
            )
            for run in measured
        ),
    )


def _figure(run: Run, name: str, style: str) -> str:
    if f"speed/{name}" not in run.history:
        return NOTHING
    values = run.history[f"speed/{name}"].values
    figure = max(values) if name == "peak_memory_gb" else median(values)
    return style.format(figure).replace("%", " %")
