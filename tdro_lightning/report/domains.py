"""Tables of domain weights and of the data that training drew from each domain."""

import math
from collections.abc import Sequence

from tdro_lightning.report.runs import DomainWeight, Run
from tdro_lightning.report.tables import NOTHING, Column, Table, cells


def sorted_weights(weights: Sequence[DomainWeight]) -> list[DomainWeight]:
    """The domains by falling last weight, equal ones by name."""
    return sorted(weights, key=lambda weight: (-weight.last, weight.domain))


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
                    _weight(weight.mean),
                    _weight(weight.ema),
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


def _weight(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"
