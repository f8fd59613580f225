"""Loss measurements: how much headroom each domain has, from the losses of one global batch.

Legend: N samples of the global batch, K domains. Every function takes the per-sample losses of
*all* processes, so that a measurement does not depend on how a batch was split.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tdro_lightning.errors import ConfigError

RELEASED_SAMPLES = 512  # rows in one micro-batch of the authors' code, over all its processes
RELEASED_THRESHOLD = 1e-4  # of the reference loss after its L1 normalisation over those rows
SOLVED = 0.1  # of the mean domain's reference loss, below which the reference has solved a domain


@dataclass(frozen=True)
class Measurement:
    """A named loss measurement with its guard.

    Args:
        name: one of `MEASURES`: `ratio` (Eq. 5), `smooth_ratio` (ours), `released` (the authors'
            code), `difference` or `plain` (Table 5).
        floor: for the two ratios, the smallest reference loss of a domain, as a share of the median
            domain's; 0 is Eq. 5 as written. Where the reference has solved half of the domains, the
            median is solved too and the floor guards nothing; `difference` needs none.

    Raises:
        ConfigError: the name is unknown or the floor is negative.
    """

    name: str = "ratio"
    floor: float = 0.5

    def __post_init__(self) -> None:
        if self.name not in MEASURES:
            raise ConfigError(
                f"module.measurement={self.name!r} is unknown; allowed are {', '.join(MEASURES)}"
            )
        if self.floor < 0:
            raise ConfigError(f"module.reference_floor={self.floor} must be 0 or more")

    def __call__(self, proxy: Tensor, reference: Tensor, domain: Tensor, domains: int) -> Tensor:
        """Measurement of each domain, [K] float64; NaN for a domain without a sample.

        Args:
            proxy: [N] per-sample proxy losses.
            reference: [N] per-sample reference losses of the same samples.
            domain: [N] domain index of each sample.
            domains: K.
        """
        return MEASURES[self.name](proxy, reference, domain, domains, self.floor)

    @property
    def needs_reference(self) -> bool:
        """Whether the reference losses are looked at; where not, no reference model is needed."""
        return self.name != "plain"

    def guarded_share(self, reference: Tensor, domain: Tensor, domains: int) -> Tensor:
        """Share of each domain's samples on which the guard acts, [K] float64; NaN where absent.

        For `ratio` a domain is floored as a whole; for `released` samples are replaced one by one.
        """
        if self.name == "ratio":
            means = domain_means(reference, domain, domains)
            acts = (floored_reference(means, self.floor) > means).double()
            return torch.where(means.isnan(), means, acts)
        if self.name == "released":
            return domain_means((_scaled(reference) < RELEASED_THRESHOLD).double(), domain, domains)
        return torch.zeros(domains, dtype=torch.float64)

    def floor_is_ineffective(self, means: Tensor) -> bool:
        """Whether the floor has no effect, as the reference has solved half of the domains.

        Then all weight can go to one domain (experiments/robustness_tdro_mini, imbalanced domains).

        Args:
            means: [K] mean reference loss of each domain; NaN where absent.
        """
        floored = self.name in ("ratio", "smooth_ratio") and self.floor > 0
        return floored and bool(_middle(means) < SOLVED * means.nanmean())


def domain_means(losses: Tensor, domain: Tensor, domains: int) -> Tensor:
    """Mean loss of each domain, [K] float64; NaN for a domain without a sample."""
    totals = torch.zeros(domains, dtype=torch.float64, device=losses.device)
    totals.index_add_(0, domain, losses.double())
    return totals / torch.bincount(domain, minlength=domains)


def ratio(proxy: Tensor, reference: Tensor, domain: Tensor, domains: int, floor: float) -> Tensor:
    """Relative loss measurement (Eq. 5): mean proxy loss over mean reference loss of each domain.

    A domain whose reference loss is near zero would outweigh all others by noise alone, so the
    divisor is at least `floor` times the median domain's reference loss.
    """
    divisor = floored_reference(domain_means(reference, domain, domains), floor)
    return _ratio_of(domain_means(proxy, domain, domains), divisor)


def smooth_ratio(
    proxy: Tensor, reference: Tensor, domain: Tensor, domains: int, floor: float
) -> Tensor:
    """Ratio of mean losses whose divisor is sqrt(reference² + (floor · median domain's)²).

    Ours: a floor without a threshold. It is near Eq. 5 for domains far above the floor and goes
    towards 0 for solved ones.
    """
    means = domain_means(reference, domain, domains)
    divisor = torch.hypot(means, floor * _middle(means))
    return _ratio_of(domain_means(proxy, domain, domains), divisor)


def floored_reference(means: Tensor, floor: float) -> Tensor:
    """Mean reference losses [K], none below `floor` times the median of the present domains'."""
    return torch.maximum(means, floor * _middle(means)) if floor else means


def _middle(means: Tensor) -> Tensor:
    """Median of the present domains' losses; their mean where more than half of them are solved."""
    median = means.nanquantile(0.5)
    return median if median > 0 else means.nanmean()


def _ratio_of(headroom: Tensor, divisor: Tensor) -> Tensor:
    """Their ratio, and 1, that of equals, where both models have solved the domain."""
    solved = (headroom == 0) & (divisor == 0)
    return torch.where(solved, torch.ones_like(headroom), headroom / divisor)


def released_ratio(
    proxy: Tensor, reference: Tensor, domain: Tensor, domains: int, _floor: float = 0
) -> Tensor:
    """The authors' released rule: domain mean of each sample's proxy / scaled reference loss.

    The released code divides the reference losses by their L1 norm over a micro-batch of 512 rows
    and replaces results under 1e-4 by 1. Both are stated here through the mean reference loss, so
    that the rule does not move with the batch size; with 512 samples it is theirs exactly.
    """
    scaled = _scaled(reference)
    scaled = torch.where(scaled < RELEASED_THRESHOLD, torch.ones_like(scaled), scaled)
    return domain_means((proxy.double() / scaled).clamp(min=0), domain, domains)


def _scaled(reference: Tensor) -> Tensor:
    """Reference losses over their L1 norm among `RELEASED_SAMPLES`; 0 where all are solved."""
    losses = reference.double()
    total = RELEASED_SAMPLES * losses.mean()
    return losses / total if total > 0 else losses


def excess_loss(
    proxy: Tensor, reference: Tensor, domain: Tensor, domains: int, _floor: float = 0
) -> Tensor:
    """Group excess loss: mean of proxy - reference loss, each sample clamped at 0 (Table 5)."""
    return domain_means((proxy.double() - reference.double()).clamp(min=0), domain, domains)


def proxy_loss(
    proxy: Tensor, _reference: Tensor, domain: Tensor, domains: int, _floor: float = 0
) -> Tensor:
    """Mean proxy loss, as GroupDRO uses it; the reference is not looked at (Table 5)."""
    return domain_means(proxy, domain, domains)


MEASURES: dict[str, Callable[[Tensor, Tensor, Tensor, int, float], Tensor]] = {
    "ratio": ratio,
    "smooth_ratio": smooth_ratio,
    "released": released_ratio,
    "difference": excess_loss,
    "plain": proxy_loss,
}
