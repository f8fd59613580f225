"""The mixture with which fine-tuning draws its batches, as configured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tdro_lightning.config.groups import domain_groups
from tdro_lightning.config.schema import Config
from tdro_lightning.console.output import tell
from tdro_lightning.data.domains import Domain
from tdro_lightning.dro.bounds import Bound, describe_changes, keep_bounds
from tdro_lightning.dro.transfer import (
    RULES,
    Mixture,
    Settings,
    Sizes,
    check_domains,
    perturb_weights,
    rule_title,
    transfer,
)
from tdro_lightning.dro.weights_file import read_weights
from tdro_lightning.records.outputs import require_intact


def configured_mixture(
    config: Config, sizes: Sizes, domains: Sequence[Domain]
) -> tuple[Mixture, dict[str, Any]]:
    """The mixture of the configured rule within the configured bounds, and what it was made of.

    Args:
        config: `transfer`.
        sizes: rows of the domains, in index order.
        domains: the same with their rows; none where a plan has no rows here.

    Raises:
        ConfigError: weights of other domains, a share that keeps none, sizes that are needed and
            not known, or bounds that contradict one another.
        DataError: the weights file is missing or broken, or was learned on other rows.
    """
    asked = config.transfer
    weights: dict[str, float] = {}
    lineage: dict[str, Any] = {"transfer": asdict(asked)}
    if RULES[asked.rule].weighted:
        weights, lineage["weights"] = _weights(config, list(sizes), domains)
    mixture = transfer(asked.rule, sizes, weights, _settings(config))
    bounds = _bounds(config, sizes)
    probability = keep_bounds(mixture.probability, bounds, asked.keep)
    changes = [
        f"transfer.keep={name}: the rule leaves it out, and it is kept"
        for name in asked.keep
        if not mixture.probability[name]
    ]
    changes += describe_changes(mixture.probability, probability, bounds)
    if changes:
        tell("\n".join(["  bounds have changed the mixture:", *(f"    {c}" for c in changes)]))
        lineage["changes"] = changes
    for name, rows in sizes.items():
        if rows is not None and rows < config.data.batch_size and probability[name]:
            tell(f"  {name}: it has {rows} rows, fewer than a batch; its batches are smaller")
    return Mixture(probability, mixture.loss_scale), lineage


def mixture_label(config: Config) -> str:
    """How a retriever is called in tables that was trained with the configured mixture."""
    asked = config.transfer
    label = rule_title(asked.rule, _settings(config))
    if asked.noise and RULES[asked.rule].weighted:
        label += f", noise {asked.noise:g}"
    bounded = (asked.keep, asked.drop, asked.least, asked.most, asked.most_epochs)
    return f"{label}, bounded" if any(bounded) else label


def _settings(config: Config) -> Settings:
    asked = config.transfer
    return Settings(
        share=asked.share,
        seed=asked.noise_seed,
        alpha=asked.alpha,
        cap=asked.cap,
        epochs=asked.epochs,
        rows_drawn=_rows_drawn(config),
    )


def _rows_drawn(config: Config) -> int:
    return config.data.batch_size * config.trainer.steps


def _weights(
    config: Config, names: Sequence[str], domains: Sequence[Domain]
) -> tuple[dict[str, float], Mapping[str, Any]]:
    """Weights by hand or of a file, with their noise, and the lineage of a file's."""
    asked = config.transfer
    if asked.given is not None:
        check_domains(names, asked.given)
        total = math.fsum(asked.given.values())
        return {name: weight / total for name, weight in asked.given.items()}, {}
    assert asked.weights is not None
    recorded = require_intact(Path(asked.weights))
    file = read_weights(Path(asked.weights))
    if not recorded and not file.has_checksum:
        tell(f"  {asked.weights}: has no checksum, so nothing says that it is unchanged")
    weights = perturb_weights(file.weights(asked.kind), asked.noise, asked.noise_seed)  # type: ignore[arg-type]
    check_domains(names, weights)
    if asked.same_data:
        sizes = {domain.name: len(domain) for domain in domains}
        file.check_data(sizes, {domain.name: domain.fingerprint for domain in domains})
    return weights, file.lineage


def _bounds(config: Config, sizes: Sizes) -> list[Bound]:
    """The configured bounds, in the words of their keys."""
    asked, groups = config.transfer, domain_groups(config)
    bounds = [Bound(f"transfer.drop={name}", (name,), most=0.0) for name in asked.drop]
    bounds += [
        Bound(f"transfer.least.{label}={share:g}", groups[label], least=share)
        for label, share in (asked.least or {}).items()
    ]
    bounds += [
        Bound(f"transfer.most.{label}={share:g}", groups[label], most=share)
        for label, share in (asked.most or {}).items()
    ]
    small = {n: r for n, r in sizes.items() if r is not None and r < config.data.batch_size}
    if config.data.small_domains == "leave_out":
        bounds += [
            Bound(f"data.small_domains=leave_out of {name} with {rows} rows", (name,), most=0.0)
            for name, rows in small.items()
        ]
    if asked.most_epochs is not None:
        label, drawn = f"transfer.most_epochs={asked.most_epochs:g}", _rows_drawn(config)
        bounds += [
            Bound(f"{label} of {name}", (name,), most=min(1.0, asked.most_epochs * rows / drawn))
            for name, rows in sizes.items()
            if rows is not None
        ]
    return bounds
