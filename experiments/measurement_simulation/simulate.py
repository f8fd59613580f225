"""Where each loss measurement drives the paper's 25 domains, in a toy: no text, no model.

python experiments/measurement_simulation/simulate.py --output runs/measurement_simulation
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median_high
from typing import Any

import torch
from paper import BASELINE_LOSSES, DOMAIN_WEIGHTS
from toy import (
    PROXIES,
    TOP_SHARE,
    Variant,
    WeightsComparison,
    compare_weights,
    make_toy,
    rank_correlation,
    simulate,
)

from tdro_lightning.dro.diagnostics import concentration
from tdro_lightning.dro.transfer import select_domains
from tdro_lightning.files import write_json, write_text
from tdro_lightning.report.tables import Column, Table, cells, markdown_table, terminal_table

MEASUREMENTS = {  # label: what fills the rows of the table
    "ratio_0": Variant("ratio", floor=0.0),
    "ratio_half": Variant("ratio", floor=0.5),
    "released": Variant("released"),
    "released_smoothed": Variant("released", smoothing=0.001),
    "difference": Variant("difference"),
    "plain": Variant("plain"),
    "ratio_0_unclipped": Variant("ratio", floor=0.0, gradient_norm="none"),
    "ratio_half_unclipped": Variant("ratio", floor=0.5, gradient_norm="none"),
    "smooth_ratio_half": Variant("smooth_ratio", floor=0.5),
    "smooth_ratio_1": Variant("smooth_ratio", floor=1.0),
    "shrunk_ratio_half": Variant("shrunk_ratio", floor=0.5),
    "row_ratio_tenth": Variant("row_ratio", floor=0.1),
}
Results = Mapping[str, Mapping[str, WeightsComparison]]  # by label and proxy


def main(arguments: list[str] | None = None) -> None:
    """Write `simulation.json` and `simulation.md` to the output folder, and print the table."""
    settings = vars(read_arguments(arguments))
    output: Path = settings.pop("output")
    toy = make_toy(BASELINE_LOSSES, settings["margin_std"], settings["proxy_noise"])
    runs = [
        simulate(toy, MEASUREMENTS, rows=settings["rows"], steps=settings["steps"], seed=seed)
        for seed in settings["seeds"]
    ]
    results = {
        label: {
            proxy: compare_weights([run[label][proxy] for run in runs], DOMAIN_WEIGHTS)
            for proxy in PROXIES
        }
        for label in MEASUREMENTS
    }
    write_json(output / "simulation.json", content_of(settings, results))
    table = results_table(results)
    write_text(output / "simulation.md", f"{table.caption}\n\n{markdown_table(table)}\n")
    print(f"{terminal_table(table)}\n{table.caption}")
    print(f"Table: {output / 'simulation.md'}; all numbers: {output / 'simulation.json'}")


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The settings of the toy; the defaults are those of the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=2048, help="of a step")
    parser.add_argument(
        "--margin-std",
        type=float,
        default=0.012,
        help="in cosine: of a domain's rows, and of a row's negatives",
    )
    parser.add_argument(
        "--proxy-noise",
        type=float,
        default=0.002,
        help="in cosine: of the proxy's margins around the reference's",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    settings = parser.parse_args(arguments)
    if len(set(settings.seeds)) < 2:
        parser.error(
            f"--seeds={settings.seeds} must be two different seeds or more: one shows nothing of "
            "the noise"
        )
    for name in ("steps", "rows", "margin_std"):
        if getattr(settings, name) <= 0:
            option = name.replace("_", "-")
            parser.error(f"--{option}={getattr(settings, name)} must be above 0")
    if settings.proxy_noise < 0:
        parser.error(f"--proxy-noise={settings.proxy_noise} must be 0 or more")
    return settings


def content_of(settings: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """Everything that `simulation.json` holds."""
    variants = {label: asdict(variant) for label, variant in MEASUREMENTS.items()}
    return {
        "settings": {**settings, "measurements": variants},
        "published": {
            "baseline_losses": BASELINE_LOSSES,
            "domain_weights": DOMAIN_WEIGHTS,
            **published_shape(),
        },
        "measurements": {
            label: {proxy: asdict(comparison) for proxy, comparison in proxies.items()}
            for label, proxies in results.items()
        },
    }


def results_table(results: Results) -> Table:
    """A row for each measurement and proxy."""
    kept = len(select_domains(DOMAIN_WEIGHTS, TOP_SHARE, largest=True))
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
        for label, proxies in results.items()
        for proxy, comparison in proxies.items()
    )
    published = published_shape()
    caption = (
        "Weights that each measurement learns in the toy, beside the published ones (Table 8): "
        f"max/min {published['max_over_min']:.0f}, "
        f"{published['effective_domains']:.1f} effective domains. "
        "The published baseline losses alone (Table 7) rank the domains with a Spearman "
        f"correlation of {published['spearman_of_losses']:.3f}."
    )
    return Table("Measurements", caption, columns, rows)


def published_shape() -> dict[str, float]:
    """How far the published weights are from uniform, and how the losses rank with them."""
    losses, weights = list(BASELINE_LOSSES.values()), list(DOMAIN_WEIGHTS.values())
    shape = concentration(torch.tensor(weights, dtype=torch.float64))
    return {**shape, "spearman_of_losses": rank_correlation(losses, weights)}


def _numbers(comparison: WeightsComparison) -> tuple[str, ...]:
    spearman = comparison.spearman
    return (
        f"{fmean(spearman):.3f}",
        f"{min(spearman):.3f} to {max(spearman):.3f}",
        _power(median_high(comparison.log10_max_over_min)),
        f"{fmean(comparison.effective_domains):.1f}",
        f"{fmean(comparison.top_published):.1f}",
        f"{comparison.top_seeds:.1f}",
    )


def _power(exponent: float) -> str:
    """10 to the exponent; a power of ten alone where the number would be long."""
    return f"{10**exponent:.3g}" if exponent < 5 else f"1e{exponent:.0f}"


if __name__ == "__main__":
    main()
