"""Weight transfer: from domain weights to the mixture of fine-tuning (paper, Table 5)."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tdro_lightning.data.randomness import generator
from tdro_lightning.errors import ConfigError

RULES = {  # and what a retriever is called that was trained so
    "uniform": "uniform",
    "random_share": "random {share:g}",
    "top_share": "top {share:g}",
    "bottom_share": "bottom {share:g}",
    "reweight": "reweighted",
    "loss_reweight": "loss reweighted",
}


@dataclass(frozen=True)
class Mixture:
    """What fine-tuning takes from the weights, by domain name.

    Args:
        probability: chance that a batch is drawn from the domain, sum 1; left-out domains have 0.
        loss_scale: factor on the loss of the domain's batches.
    """

    probability: dict[str, float]
    loss_scale: dict[str, float]


def transfer(
    name: str,
    names: Sequence[str],
    weights: Mapping[str, float],
    share: float,
    seed: int = 0,
) -> Mixture:
    """Mixture over `names` by the named rule.

    Args:
        name: `uniform`, `random_share`, `top_share`, `bottom_share`, `reweight` (sample ratio) or
            `loss_reweight`.
        names: the configured domains.
        weights: domain weights by name; not looked at for `uniform` and `random_share`.
        share: per cent of the domains kept by the rules that keep a share.
        seed: which domains `random_share` keeps; the control for a selection by weight.

    Raises:
        ConfigError: unknown rule, a share that keeps no domain, or weights of other domains.
    """
    if name not in RULES:
        raise ConfigError(f"transfer.rule={name!r} is unknown; allowed are {', '.join(RULES)}")
    if name == "uniform":
        return _uniform_over(names, names)
    if name == "random_share":
        drawn = {domain: generator(seed, f"keep {domain}").random() for domain in names}
        return _uniform_over(names, select_domains(drawn, share, largest=True))
    check_domains(names, weights)
    if name == "reweight":
        return Mixture(dict(weights), dict.fromkeys(names, 1.0))
    if name == "loss_reweight":
        uniform = _uniform_over(names, names).probability
        return Mixture(uniform, {domain: len(names) * weights[domain] for domain in names})
    return _uniform_over(names, select_domains(weights, share, largest=name == "top_share"))


def perturb_weights(weights: Mapping[str, float], noise: float, seed: int) -> dict[str, float]:
    """Weights times log-normal noise, summing to 1 again: is the mixture robust to its weights?

    Args:
        weights: domain weights by name.
        noise: standard deviation of the noise's logarithm; 0 leaves the weights as they are.
        seed: seed of the noise; a domain's draw does not depend on the other domains.

    Raises:
        ConfigError: the noise is negative.
    """
    if noise < 0:
        raise ConfigError(f"transfer.noise={noise} must be 0 or more")
    if noise == 0:
        return dict(weights)
    moved = {
        name: weight * math.exp(noise * generator(seed, f"noise {name}").standard_normal())
        for name, weight in weights.items()
    }
    total = math.fsum(moved.values())
    return {name: weight / total for name, weight in moved.items()}


def select_domains(weights: Mapping[str, float], share: float, *, largest: bool) -> list[str]:
    """The floor(k * share / 100) domains of largest (or smallest) weight; ties go by name.

    Raises:
        ConfigError: the share is outside (0, 100] or so small that no domain is left.
    """
    if not 0 < share <= 100:
        raise ConfigError(f"transfer.share={share} must be above 0 and at most 100 (per cent)")
    count = math.floor(len(weights) * share / 100)
    if count == 0:
        raise ConfigError(
            f"transfer.share={share} keeps none of the {len(weights)} domains; "
            f"it must be at least {100 / len(weights):.1f}"
        )
    sign = -1 if largest else 1
    return sorted(weights, key=lambda name: (sign * weights[name], name))[:count]


def check_domains(names: Sequence[str], weights: Mapping[str, float]) -> None:
    """Refuse weights that are not of exactly the configured domains.

    Raises:
        ConfigError: names both the domains without a weight and the weights without a domain.
    """
    missing = [name for name in names if name not in weights]
    unknown = [name for name in weights if name not in set(names)]
    if missing or unknown:
        near = [
            f"{name} the file's {match}"
            for name in missing
            for match in difflib.get_close_matches(name, unknown, n=1)
        ]
        hint = f"; is {', '.join(near)}?" if near else ""
        raise ConfigError(
            "transfer.weights does not match the configured domains: "
            f"without a weight: {missing or 'none'}; unknown in the file: {unknown or 'none'}"
            f"{hint}"
        )


def _uniform_over(names: Sequence[str], kept: Sequence[str]) -> Mixture:
    probability = {name: 1 / len(kept) if name in kept else 0.0 for name in names}
    return Mixture(probability, dict.fromkeys(names, 1.0))
