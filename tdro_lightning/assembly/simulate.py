"""Where each loss measurement drives the paper's 25 domains, in a toy."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tdro_lightning.config.schema import ComparedConfig, Config
from tdro_lightning.console.output import tell
from tdro_lightning.dro.diagnostics import concentration
from tdro_lightning.dro.paper import BASELINE_LOSSES, DOMAIN_WEIGHTS
from tdro_lightning.dro.simulation import (
    PROXIES,
    TOP_SHARE,
    Comparison,
    Variant,
    compared,
    made,
    rank_correlation,
    simulate,
)
from tdro_lightning.dro.transfer import selected
from tdro_lightning.errors import ConfigError
from tdro_lightning.files import write_json, write_text
from tdro_lightning.report.tables import Column, Table, cells, markdown_table, terminal_table


def simulate_configured(config: Config) -> None:
    """Write `simulation.json` and `simulation.md`, and print the table."""
    assert config.simulate is not None
    settings = config.simulate
    variants = {label: _variant(label, entry) for label, entry in settings.measurements.items()}
    toy = made(BASELINE_LOSSES, settings.margin_std, settings.proxy_noise)
    runs = [
        simulate(toy, variants, rows=settings.rows, steps=settings.steps, seed=seed)
        for seed in settings.seeds
    ]
    found = {
        label: {
            proxy: compared([one[label][proxy] for one in runs], DOMAIN_WEIGHTS)
            for proxy in PROXIES
        }
        for label in variants
    }
    output = Path(config.run_dir)
    write_json(output / "simulation.json", _content(asdict(settings), found))
    table = _table(found)
    write_text(output / "simulation.md", f"{table.caption}\n\n{markdown_table(table)}\n")
    tell(terminal_table(table))
    tell(table.caption)
    tell(f"Table: {output / 'simulation.md'}; all numbers: {output / 'simulation.json'}")


def _variant(label: str, entry: ComparedConfig) -> Variant:
    try:
        return Variant(**asdict(entry))
    except ConfigError as error:
        raise ConfigError(f"simulate.measurements.{label}: {error}") from None


def _content(settings: dict[str, Any], found: dict[str, dict[str, Comparison]]) -> dict[str, Any]:
    return {
        "settings": settings,
        "published": {
            "baseline_losses": BASELINE_LOSSES,
            "domain_weights": DOMAIN_WEIGHTS,
            **_published(),
        },
        "measurements": {
            label: {proxy: asdict(comparison) for proxy, comparison in proxies.items()}
            for label, proxies in found.items()
        },
    }


def _table(found: dict[str, dict[str, Comparison]]) -> Table:
    kept = len(selected(DOMAIN_WEIGHTS, TOP_SHARE, largest=True))
    columns = (
        Column("measurement", numeric=False),
        Column("proxy", numeric=False),
        Column("Spearman", "mean"),
        Column("range", "over the seeds"),
        Column("max/min", "median"),
        Column("effective domains", "mean"),
        Column(f"top {kept} as published", "mean"),
        Column(f"top {kept} shared", "by two seeds"),
        Column("heaviest three", numeric=False),
    )
    rows = tuple(
        cells((label, proxy, *_numbers(comparison), ", ".join(comparison.heaviest)))
        for label, proxies in found.items()
        for proxy, comparison in proxies.items()
    )
    published = _published()
    caption = (
        "Weights that each measurement learns in the toy, beside the published ones (Table 8): "
        f"max/min {published['max_over_min']:.0f}, "
        f"{published['effective_domains']:.1f} effective domains. "
        "The published baseline losses alone (Table 7) rank the domains with a Spearman "
        f"correlation of {published['spearman_of_losses']:.3f}."
    )
    return Table("Measurements", caption, columns, rows)


def _published() -> dict[str, float]:
    """Shape of the published weights, and how the published losses rank with them."""
    losses, weights = list(BASELINE_LOSSES.values()), list(DOMAIN_WEIGHTS.values())
    shape = concentration(torch.tensor(weights, dtype=torch.float64))
    return {**shape, "spearman_of_losses": rank_correlation(losses, weights)}


def _numbers(comparison: Comparison) -> tuple[str, ...]:
    spearman = comparison.spearman
    spread = sorted(comparison.log10_max_over_min)[len(comparison.log10_max_over_min) // 2]
    return (
        f"{_mean(spearman):.3f}",
        f"{min(spearman):.3f} to {max(spearman):.3f}",
        _power(spread),
        f"{_mean(comparison.effective_domains):.1f}",
        f"{_mean(comparison.top_published):.1f}",
        f"{comparison.top_seeds:.1f}",
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _power(exponent: float) -> str:
    """10 to the exponent; a power of ten alone where the number would be long."""
    return f"{10**exponent:.3g}" if exponent < 5 else f"1e{exponent:.0f}"
