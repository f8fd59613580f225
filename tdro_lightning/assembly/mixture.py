"""The mixture with which fine-tuning draws its batches, as configured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tdro_lightning.config.groups import domain_groups
from tdro_lightning.config.schema import Config
from tdro_lightning.console.output import tell
from tdro_lightning.data.domains import Domain
from tdro_lightning.dro.bounds import Bound, describe_changes, keep_bounds, spend_budget
from tdro_lightning.dro.mixture_file import MixtureFile, MixtureShare, write_mixture
from tdro_lightning.dro.transfer import (
    RULES,
    Settings,
    Sizes,
    check_domains,
    known_sizes,
    perturb_weights,
    rule_title,
    transfer,
)
from tdro_lightning.dro.weights_file import read_weights
from tdro_lightning.errors import ConfigError
from tdro_lightning.records.outputs import require_intact

MIXTURE = "mixture.yaml"  # in the run folder


@dataclass(frozen=True)
class ConfiguredMixture:
    """What a training takes from each domain, by name, in index order.

    Attributes:
        probability: chance that a batch is drawn from the domain.
        loss_scale: factor on the loss of its batches.
        rows: that are used of it; None where nobody knows how many there are.
        changes: what bounds and budget have changed, a sentence each.
        lineage: settings and weights that it was made of.
    """

    probability: dict[str, float]
    loss_scale: dict[str, float]
    rows: dict[str, int | None]
    changes: list[str]
    lineage: dict[str, Any]

    def used_rows(self, domains: Sequence[Domain]) -> list[Domain]:
        """The domains with the rows that the budget allows."""
        used = zip(domains, self.rows.values(), strict=True)
        return [one if rows in (None, len(one)) else one.drawn(rows) for one, rows in used]


def configured_mixture(
    config: Config, sizes: Sizes, domains: Sequence[Domain]
) -> ConfiguredMixture:
    """The mixture of the configured rule within the configured bounds; changes are printed.

    Args:
        config: `transfer`.
        sizes: rows of the domains, in index order.
        domains: the same with their rows; none where a plan has no rows here.

    Raises:
        ConfigError: weights of other domains, a share that keeps none, sizes that are needed and
            not known, bounds that contradict one another, or a budget that is too small.
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
    rows = _rows_in_budget(config, probability, sizes)
    changes += [
        f"transfer.budget={asked.budget}: {used} of the {sizes[name]} rows of {name} are used"
        for name, used in rows.items()
        if used != sizes[name]
    ]
    if changes:
        tell("\n".join(["  bounds have changed the mixture:", *(f"    {c}" for c in changes)]))
    for name, used in rows.items():
        if used is not None and used < config.data.batch_size and probability[name]:
            tell(f"  {name}: it has {used} rows, fewer than a batch; its batches are smaller")
    return ConfiguredMixture(probability, mixture.loss_scale, rows, changes, lineage)


def write_configured_mixture(
    config: Config, mixture: ConfiguredMixture, domains: Sequence[Domain]
) -> MixtureFile:
    """Write `mixture.yaml` to the run folder, and return its content.

    Args:
        config: of the run.
        mixture: as configured.
        domains: all rows of the domains.
    """
    shares = {
        domain.name: MixtureShare(
            probability=mixture.probability[domain.name],
            rows=mixture.rows[domain.name] or len(domain),
            of=len(domain),
            loss_scale=mixture.loss_scale[domain.name],
        )
        for domain in domains
    }
    content = MixtureFile(
        rule=mixture_label(config),
        seed=config.seed,
        batch_size=config.data.batch_size,
        steps=config.trainer.steps,
        shares=shares,
        changes=mixture.changes,
        lineage={**mixture.lineage, "domains": {d.name: d.fingerprint for d in domains}},
    )
    write_mixture(Path(config.run_dir) / MIXTURE, content)
    return content


def mixture_label(config: Config) -> str:
    """How a retriever is called in tables that was trained with the configured mixture."""
    asked = config.transfer
    label = rule_title(asked.rule, _settings(config))
    if asked.noise and RULES[asked.rule].weighted:
        label += f", noise {asked.noise:g}"
    bounded = (asked.keep, asked.drop, asked.least, asked.most, asked.most_epochs, asked.budget)
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


def _rows_in_budget(
    config: Config, probability: Mapping[str, float], sizes: Sizes
) -> dict[str, int | None]:
    """Rows that are used of each domain: all, or as many as the budget of rows allows.

    Raises:
        ConfigError: the budget leaves a domain no row, or so few that `transfer.most_epochs` would
            be broken, or the numbers of rows are not known.
    """
    budget, most = config.transfer.budget, config.transfer.most_epochs
    if budget is None:
        return dict(sizes)
    rows = spend_budget(probability, known_sizes(sizes, "transfer.budget"), budget)
    for name, used in rows.items():
        epochs = probability[name] * _rows_drawn(config) / used
        if most is not None and epochs > most * (1 + 1e-6) + 1 / used:
            raise ConfigError(
                f"transfer.budget={budget} leaves {used} rows of {name}, which the training goes "
                f"through {epochs:.3g} times; transfer.most_epochs={most:g} allows no more, so "
                "raise the budget or take fewer steps"
            )
    return dict(rows)


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
