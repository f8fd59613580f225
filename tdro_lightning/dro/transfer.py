"""Mixtures of fine-tuning, from domain sizes and weights (paper, Table 5, and what others use)."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from tdro_lightning.data.randomness import generator
from tdro_lightning.errors import ConfigError

Sizes = Mapping[str, int | None]  # rows of each domain, in index order; None where nobody knows
Weights = Mapping[str, float]


@dataclass(frozen=True)
class Mixture:
    """What fine-tuning takes from each domain, by name.

    Args:
        probability: chance that a batch is drawn from the domain, sum 1; left-out domains have 0.
        loss_scale: factor on the loss of the domain's batches.
    """

    probability: dict[str, float]
    loss_scale: dict[str, float]


@dataclass(frozen=True)
class Settings:
    """What the rules look at besides sizes and weights: keys of `transfer`.

    Args:
        share: per cent of the domains kept by the rules that keep a share.
        seed: which domains `random_share` keeps; the control for a selection by weight.
        alpha: exponent of the sizes in `temperature`; 0 is uniform, 1 proportional.
        cap: rows that count of a domain in `cap`.
        epochs: passes over a domain that `unimax` allows.
        rows_drawn: rows that the whole training draws: batch size times steps.
    """

    share: float = 70.0
    seed: int = 0
    alpha: float = 0.5
    cap: int = 10_000
    epochs: float = 4.0
    rows_drawn: int = 0


@dataclass(frozen=True)
class Rule:
    """A way from sizes and weights to a mixture.

    Args:
        mixture: makes it.
        title: what a retriever is called that was trained so, with fields of `Settings`.
        meaning: how the domains were drawn, in a model card.
        weighted: whether the rule looks at weights.
    """

    mixture: Callable[[Sizes, Weights, Settings], Mixture]
    title: str
    meaning: str
    weighted: bool = False


def transfer(name: str, sizes: Sizes, weights: Weights, settings: Settings) -> Mixture:
    """Mixture over the domains of `sizes` by the named rule of `RULES`.

    Args:
        name: the rule.
        sizes: rows of the configured domains.
        weights: domain weights by name; looked at by weighted rules only.
        settings: of the rules.

    Raises:
        ConfigError: unknown rule, weights of other domains, a share that keeps no domain, or a
            rule that needs sizes which are not known.
    """
    if name not in RULES:
        raise ConfigError(f"transfer.rule={name!r} is unknown; allowed are {', '.join(RULES)}")
    if RULES[name].weighted:
        check_domains(list(sizes), weights)
    return RULES[name].mixture(sizes, weights, settings)


def rule_title(name: str, settings: Settings) -> str:
    """What a retriever is called that was trained with a mixture by a rule."""
    return RULES[name].title.format(**asdict(settings))


def _uniform(sizes: Sizes, weights: Weights, settings: Settings) -> Mixture:
    return _uniform_over(sizes, list(sizes))


def _proportional(sizes: Sizes, weights: Weights, settings: Settings) -> Mixture:
    return _in_proportion({name: float(rows) for name, rows in known_sizes(sizes).items()})


def _temperature(sizes: Sizes, weights: Weights, settings: Settings) -> Mixture:
    """In proportion to size^alpha, as multilingual models are trained (Devlin et al. 2019)."""
    return _in_proportion({name: rows**settings.alpha for name, rows in known_sizes(sizes).items()})


def _cap(sizes: Sizes, weights: Weights, settings: Settings) -> Mixture:
    """In proportion to size, as if no domain had more than `cap` rows."""
    known = known_sizes(sizes)
    return _in_proportion({name: float(min(rows, settings.cap)) for name, rows in known.items()})


def _unimax(sizes: Sizes, weights: Weights, settings: Settings) -> Mixture:
    """As uniform as a limit on the passes over each domain allows (Chung et al. 2023, UniMax).

    From the smallest domain on, each gets an even part of the rows that are left to draw, or as
    many rows as `epochs` passes have.
    """
    known = known_sizes(sizes)
    drawn: dict[str, float] = {}
    for name in sorted(known, key=lambda name: (known[name], name)):
        even = (settings.rows_drawn - math.fsum(drawn.values())) / (len(known) - len(drawn))
        drawn[name] = min(even, known[name] * settings.epochs)
    return _in_proportion({name: drawn[name] for name in known})


def _random_share(sizes: Sizes, weights: Weights, settings: Settings) -> Mixture:
    drawn = {name: generator(settings.seed, f"keep {name}").random() for name in sizes}
    return _uniform_over(sizes, select_domains(drawn, settings.share, largest=True))


def _top_share(sizes: Sizes, weights: Weights, settings: Settings) -> Mixture:
    return _uniform_over(sizes, select_domains(weights, settings.share, largest=True))


def _bottom_share(sizes: Sizes, weights: Weights, settings: Settings) -> Mixture:
    return _uniform_over(sizes, select_domains(weights, settings.share, largest=False))


def _reweight(sizes: Sizes, weights: Weights, settings: Settings) -> Mixture:
    """The weights as probabilities: sample ratio in the paper."""
    return Mixture({name: weights[name] for name in sizes}, dict.fromkeys(sizes, 1.0))


def _loss_reweight(sizes: Sizes, weights: Weights, settings: Settings) -> Mixture:
    scale = {name: len(sizes) * weights[name] for name in sizes}
    return Mixture(_uniform_over(sizes, list(sizes)).probability, scale)


RULES: dict[str, Rule] = {
    "uniform": Rule(_uniform, "uniform", "uniform weights"),
    "proportional": Rule(_proportional, "proportional", "weights in proportion to their rows"),
    "temperature": Rule(
        _temperature, "size^{alpha:g}", "weights in proportion to a power of their rows"
    ),
    "cap": Rule(_cap, "cap {cap}", "weights in proportion to their rows, up to a number of rows"),
    "unimax": Rule(
        _unimax, "UniMax {epochs:g}", "weights as uniform as a limit on their passes allows"
    ),
    "random_share": Rule(_random_share, "random {share:g}", "a random share of them"),
    "top_share": Rule(
        _top_share,
        "top {share:g}",
        "the share with the largest weights, uniformly",
        weighted=True,
    ),
    "bottom_share": Rule(
        _bottom_share,
        "bottom {share:g}",
        "the share with the smallest weights, uniformly",
        weighted=True,
    ),
    "reweight": Rule(_reweight, "reweighted", "their weights", weighted=True),
    "loss_reweight": Rule(
        _loss_reweight,
        "loss reweighted",
        "uniform weights, the loss scaled by their weights",
        weighted=True,
    ),
}


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


def _uniform_over(sizes: Sizes, kept: Sequence[str]) -> Mixture:
    probability = {name: 1 / len(kept) if name in kept else 0.0 for name in sizes}
    return Mixture(probability, dict.fromkeys(sizes, 1.0))


def _in_proportion(parts: Mapping[str, float]) -> Mixture:
    total = math.fsum(parts.values())
    probability = {name: part / total for name, part in parts.items()}
    return Mixture(probability, dict.fromkeys(parts, 1.0))


def known_sizes(sizes: Sizes, needed_by: str = "transfer.rule") -> dict[str, int]:
    """The sizes, where all are known.

    Raises:
        ConfigError: names those that are not, and the key that needs them.
    """
    unknown = [name for name, rows in sizes.items() if rows is None]
    if unknown:
        raise ConfigError(
            f"{needed_by} needs the rows of {', '.join(unknown)}, which are not known before the "
            "file is there; give domains.catalogue.NAME.size"
        )
    return {name: rows for name, rows in sizes.items() if rows is not None}
