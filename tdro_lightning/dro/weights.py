"""Domain weights: a named point of the simplex, moved by exponentiated gradient ascent (Eq. 4)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from tdro_lightning.errors import ConfigError

GradientNorm = Literal["clip", "unit", "none"]
TENSORS = ("log_weights", "mean", "ema", "last_measurement", "absences")  # [K] each, in a state


class DomainWeights:
    """Domain weights with their running mean and moving average, held in float64 log space.

    A plain object, not a module: precision plugins cast parameters and buffers to bf16, where one
    update of the paper's size vanishes. Every process steps its own copy with the same measurement.

    Args:
        names: the K domains, in index order.
        learning_rate: step size of Eq. 4, constant (the paper: 2e-2).
        gradient_norm: `clip` scales the measurement down to L2 norm 1 where it is longer (released
            code), `unit` always scales it to norm 1, `none` leaves it.
        smoothing: share of the uniform distribution mixed in after each update (DoReMi; in the
            paper 0).
        ema: share of the newest weights in the moving average (released code: 0.1).

    Raises:
        ConfigError: no domain, a name twice, or a setting out of range.
    """

    def __init__(
        self,
        names: Sequence[str],
        learning_rate: float = 2e-2,
        gradient_norm: GradientNorm = "clip",
        smoothing: float = 0.0,
        ema: float = 0.1,
    ) -> None:
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"domains: expected distinct names, got {list(names)}")
        if gradient_norm not in get_args(GradientNorm):
            raise ConfigError(
                f"module.gradient_norm={gradient_norm!r} is unknown; allowed are clip, unit, none"
            )
        for setting, valid, allowed in (
            (f"weights_lr={learning_rate}", learning_rate > 0, "above 0"),
            (f"smoothing={smoothing}", 0 <= smoothing < 1, "at least 0 and below 1"),
            (f"ema={ema}", 0 < ema <= 1, "above 0 and at most 1"),
        ):
            if not valid:
                raise ConfigError(f"module.{setting} must be {allowed}")
        self.names = tuple(names)
        self.learning_rate = learning_rate
        self.gradient_norm = gradient_norm
        self.smoothing = smoothing
        self.decay = ema
        uniform = torch.full((len(names),), 1 / len(names), dtype=torch.float64)
        self.log_weights = uniform.log()
        self.mean = uniform.clone()
        self.ema = uniform.clone()
        self.updates = 0
        self.last_measurement = torch.full_like(uniform, float("nan"))
        self.absences = torch.zeros(len(names), dtype=torch.int64)

    @property
    def last(self) -> Tensor:
        """The current weights, [K] float64, sum 1."""
        return self.log_weights.softmax(0)

    def step(self, measurement: Tensor) -> Tensor:
        """Move the weights towards the domains of largest measurement and return them (Eq. 4).

        Args:
            measurement: [K]; NaN for a domain absent from the batch, which then keeps its last
                measurement, or takes the mean of the present ones where it had none yet.

        Raises:
            FloatingPointError: a measurement is infinite, or every domain is absent.
        """
        current = measurement.detach().double().cpu()
        self.last_measurement = fill_absent(current, self.last_measurement)
        if not torch.isfinite(self.last_measurement).all():
            values = dict(zip(self.names, current.tolist(), strict=True))
            raise FloatingPointError(f"measurement is not finite: {values}")
        gradient = normalise_gradient(self.last_measurement, self.gradient_norm)
        moved = (self.log_weights + self.learning_rate * gradient).log_softmax(0)
        if self.smoothing:
            floor = self.smoothing / len(self.names)
            moved = ((1 - self.smoothing) * moved.exp() + floor).log().log_softmax(0)
        self.log_weights = moved
        self.mean = (self.mean * self.updates + self.last) / (self.updates + 1)
        self.ema = (1 - self.decay) * self.ema + self.decay * self.last
        self.absences += current.isnan()
        self.updates += 1
        return self.last

    def state_dict(self) -> dict[str, Any]:
        """Everything that later updates depend on: names, tensors and the number of updates."""
        return {
            "names": list(self.names),
            **{key: getattr(self, key).clone() for key in TENSORS},
            "updates": self.updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`, whose domains may stand in another order.

        Raises:
            ConfigError: the state is of other domains.
        """
        if set(state["names"]) != set(self.names):
            raise ConfigError(
                f"the checkpoint holds weights of {sorted(state['names'])}, "
                f"but the configured domains are {sorted(self.names)}"
            )
        order = torch.tensor([state["names"].index(name) for name in self.names])
        for key in TENSORS:
            setattr(self, key, state[key].to("cpu", getattr(self, key).dtype)[order])
        self.updates = int(state["updates"])


def normalise_gradient(gradient: Tensor, how: GradientNorm) -> Tensor:
    """Gradient [K] with its L2 norm over all domains clipped to 1, set to 1, or left."""
    norm = gradient.norm()
    if how == "none" or norm == 0 or (how == "clip" and norm <= 1):
        return gradient
    return gradient / norm


def fill_absent(measurement: Tensor, previous: Tensor) -> Tensor:
    """Measurement [K] whose NaNs (absent domains) are filled from `previous`, else from the mean.

    Counting an absent domain as 0 would drive it down for no reason of its own.
    """
    filled = torch.where(measurement.isnan(), previous, measurement)
    return torch.where(filled.isnan(), measurement.nanmean(), filled)
