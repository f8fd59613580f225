"""A toy of the tDRO stage without any text: where each loss measurement drives the domain weights.

Legend: N rows of a step, K domains, T the temperature. A row's loss is the InfoNCE of one positive
and `NEGATIVES` negatives (Eq. 2), computed from made-up cosine margins. Domains differ in nothing
but how hard they are: their margins are centred so that the reference's mean losses are given ones.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn.functional import softplus

from tdro_lightning.data.randomness import generator
from tdro_lightning.dro.diagnostics import concentration
from tdro_lightning.dro.measurement import MEASURES, Measurement, domain_means
from tdro_lightning.dro.transfer import select_domains
from tdro_lightning.dro.weights import DomainWeights, GradientNorm
from tdro_lightning.errors import ConfigError

TEMPERATURE = 0.002
NEGATIVES = 7
WEIGHTS_LR = 2e-2
TOP_SHARE = 70.0  # per cent of the domains that the paper's best transfer keeps
PROXIES = ("static", "learning")

Measure = Callable[[Tensor, Tensor, Tensor, int], Tensor]
LogWeights = dict[str, float]


@dataclass(frozen=True)
class Variant:
    """A measurement with the update it drives.

    Args:
        name: a measurement of the project, or one of `CANDIDATES`.
        floor: share of the median domain's reference loss, for those that have a guard.
        gradient_norm: as in `DomainWeights`.
        smoothing: as in `DomainWeights`.

    Raises:
        ConfigError: the name is unknown or a setting is out of range.
    """

    name: str
    floor: float = 0.5
    gradient_norm: GradientNorm = "clip"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        allowed = (*MEASURES, *CANDIDATES)
        if self.name not in allowed:
            raise ConfigError(f"name={self.name!r} is unknown; allowed are {', '.join(allowed)}")
        if self.floor < 0:
            raise ConfigError(f"floor={self.floor} must be 0 or more")
        self.start(("any",))  # checks the settings of the update

    @property
    def measure(self) -> Measure:
        """The measurement as a function of proxy losses, reference losses, domains and K."""
        if self.name in CANDIDATES:
            return partial(CANDIDATES[self.name], floor=self.floor)
        return Measurement(self.name, self.floor)

    def start(self, names: Sequence[str]) -> DomainWeights:
        """Uniform weights that will move in this variant's way."""
        return DomainWeights(names, WEIGHTS_LR, self.gradient_norm, self.smoothing)


@dataclass(frozen=True)
class SimulatedBatch:
    """One step: domain index [N], reference losses [N], losses [N] of each kind of proxy."""

    domain: Tensor
    reference: Tensor
    proxies: dict[str, Tensor]


@dataclass(frozen=True)
class Toy:
    """Domains whose rows have a margin ~ N(centre, margin_std) between positive and negatives.

    Args:
        names: the K domains.
        centres: [K] mean margin, in cosine.
        margin_std: standard deviation of the rows' margins; the negatives of a row lie below its
            hardest possible one by half-normal distances of this scale.
        proxy_noise: standard deviation of the proxy's margin around the reference's, in cosine.
    """

    names: tuple[str, ...]
    centres: Tensor
    margin_std: float
    proxy_noise: float

    def batch(self, rows: int, step: int, seed: int) -> SimulatedBatch:
        """Losses of one step, float64; domains share the rows equally and take turns at the rest.

        The proxy is `static`, the reference but for noise, or `learning`: it starts with smaller
        margins and ends with slightly larger ones.
        """
        domain = (step * rows + torch.arange(rows)) % len(self.names)
        draws = generator(seed, "simulation", step).standard_normal((rows, NEGATIVES + 2))
        spread = _spread(draws[:, :NEGATIVES], self.margin_std)
        own, noise = torch.from_numpy(draws[:, NEGATIVES]), torch.from_numpy(draws[:, -1])
        reference = self.centres[domain] + self.margin_std * own
        static = reference + self.proxy_noise * noise
        learnt = 0.002 - 0.03 * math.exp(-step / 100)
        return SimulatedBatch(
            domain,
            softplus(spread - reference / TEMPERATURE),
            {
                "static": softplus(spread - static / TEMPERATURE),
                "learning": softplus(spread - (static + learnt) / TEMPERATURE),
            },
        )


def make_toy(losses: Mapping[str, float], margin_std: float, proxy_noise: float) -> Toy:
    """The toy whose reference has the given mean loss in each domain, found by bisection.

    The mean is over a grid of the row's margin and equally likely quantiles of the spread.
    """
    target = torch.tensor(list(losses.values()), dtype=torch.float64)
    draws = generator(0, "calibration").standard_normal((100_000, NEGATIVES))
    spread = _spread(draws, margin_std).sort().values.reshape(200, -1).mean(1)
    grid = torch.linspace(-8, 8, 321, dtype=torch.float64)
    mass = torch.softmax(-(grid**2) / 2, 0)
    reach = 20 * TEMPERATURE + 12 * margin_std
    low, high = torch.full_like(target, -reach), torch.full_like(target, reach)
    for _ in range(40):
        middle = (low + high) / 2
        margins = (middle[:, None, None] + margin_std * grid) / TEMPERATURE
        mean = (softplus(spread[None, :, None] - margins) * mass).sum(-1).mean(1)
        too_easy = mean < target
        low, high = torch.where(too_easy, low, middle), torch.where(too_easy, middle, high)
    return Toy(tuple(losses), (low + high) / 2, margin_std, proxy_noise)


def _spread(draws: NDArray[np.float64], scale: float) -> Tensor:
    """Log of the summed odds of a row's negatives at margin 0, [N], from [N, negatives] normals."""
    return torch.logsumexp(torch.from_numpy(-scale * np.abs(draws)) / TEMPERATURE, dim=-1)


def simulate(
    toy: Toy, variants: Mapping[str, Variant], *, rows: int, steps: int, seed: int
) -> dict[str, dict[str, LogWeights]]:
    """Final log weights by label, proxy and domain; all variants see the same batches.

    Logarithms, because a weight that collapses is 0 in float64 and then has no rank.
    """
    measures = {label: variant.measure for label, variant in variants.items()}
    moving = {
        (label, proxy): variant.start(toy.names)
        for label, variant in variants.items()
        for proxy in PROXIES
    }
    for step in range(steps):
        batch = toy.batch(rows, step, seed)
        for (label, proxy), weights in moving.items():
            losses = batch.proxies[proxy]
            weights.step(measures[label](losses, batch.reference, batch.domain, len(toy.names)))
    return {
        label: {
            proxy: dict(zip(toy.names, moving[label, proxy].log_weights.tolist(), strict=True))
            for proxy in PROXIES
        }
        for label in variants
    }


@dataclass(frozen=True)
class WeightsComparison:
    """Final weights of several seeds, and how they agree with published ones and each other.

    Args:
        spearman: rank correlation with the published weights, by seed.
        log10_max_over_min: decimal logarithm of largest over smallest weight, by seed.
        effective_domains: exponential of the entropy, by seed.
        top_published: how many of the top 70 % of the domains are in the published top, by seed.
        top_seeds: how many two seeds share, mean over the pairs.
        weights: mean weight of each domain over the seeds.
    """

    spearman: list[float]
    log10_max_over_min: list[float]
    effective_domains: list[float]
    top_published: list[int]
    top_seeds: float
    weights: dict[str, float]

    @property
    def heaviest(self) -> list[str]:
        """The three domains of largest mean weight."""
        return sorted(self.weights, key=lambda name: -self.weights[name])[:3]


def compare_weights(
    seeds: Sequence[LogWeights], published: Mapping[str, float]
) -> WeightsComparison:
    """Compare the final log weights of two or more seeds with published weights."""
    names = list(published)
    logs = torch.tensor([[seed[name] for name in names] for seed in seeds], dtype=torch.float64)
    weights = logs.softmax(1)
    top = set(select_domains(published, TOP_SHARE, largest=True))
    tops = [set(select_domains(seed, TOP_SHARE, largest=True)) for seed in seeds]
    return WeightsComparison(
        spearman=[rank_correlation(row.tolist(), list(published.values())) for row in logs],
        log10_max_over_min=((logs.amax(1) - logs.amin(1)) / math.log(10)).tolist(),
        effective_domains=[concentration(row)["effective_domains"] for row in weights],
        top_published=[len(kept & top) for kept in tops],
        top_seeds=fmean(len(kept & other) for kept, other in combinations(tops, 2)),
        weights=dict(zip(names, weights.mean(0).tolist(), strict=True)),
    )


def rank_correlation(values: Sequence[float], others: Sequence[float]) -> float:
    """Spearman's rank correlation."""
    return float(spearmanr(values, others).statistic)


def _guard(reference: Tensor, floor: float) -> Tensor:
    """`floor` times the median of the domains' mean reference losses."""
    return floor * reference.nanquantile(0.5)


def shrunk_ratio(
    proxy: Tensor, reference: Tensor, domain: Tensor, domains: int, *, floor: float
) -> Tensor:
    """(proxy + g) / (reference + g) of the domain means, g = `_guard`: a solved domain has 1."""
    means = domain_means(reference, domain, domains)
    guard = _guard(means, floor)
    return (domain_means(proxy, domain, domains) + guard) / (means + guard)


def row_ratio(
    proxy: Tensor, reference: Tensor, domain: Tensor, domains: int, *, floor: float
) -> Tensor:
    """Domain mean of proxy / (reference + g) of each row: `released` without its threshold."""
    guard = _guard(domain_means(reference, domain, domains), floor)
    return domain_means(proxy.double() / (reference.double() + guard), domain, domains)


# Tried on equal terms with the project's measurements; each is scale-free, smooth, bounded on
# solved domains and independent of the batch size.
CANDIDATES: dict[str, Callable[..., Tensor]] = {
    "shrunk_ratio": shrunk_ratio,
    "row_ratio": row_ratio,
}
