"""AdamW, its schedule, and the one place where gradients become a step."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tdro_lightning.distributed.collectives import sum_gradients
from tdro_lightning.losses.sparsity import Sparsity


def cosine(lr: float, step: int, steps: int, warmup: int, least: float) -> float:
    """Linear warm-up from `lr / warmup`, then cosine: the last step has the least rate."""
    if step < warmup:
        return lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    share = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return lr * (least + (1 - least) * share)


def linear(lr: float, step: int, steps: int, warmup: int, least: float) -> float:
    """Linear warm-up from 0, then linear: the step after the last would have the least rate.

    With `least` 0 it is `get_linear_schedule_with_warmup` of transformers.
    """
    if step < warmup:
        return lr * step / warmup
    left = max(0, steps - step) / max(1, steps - warmup)
    return lr * (least + (1 - least) * left)


# The learning rate of a step (from 0) from the largest rate, the step, the number of steps and of
# those of warm-up, and the least rate as a share of the largest.
SCHEDULES: dict[str, Callable[[float, int, int, int, float], float]] = {
    "cosine": cosine,
    "linear": linear,
}


@dataclass(frozen=True)
class Optimisation:
    """How a model is trained (paper, Table 6; weight decay from the released code).

    Args:
        steps: optimiser steps in the run.
        lr: largest learning rate.
        warmup_steps: steps of linear warm-up.
        min_lr_ratio: learning rate at the end, as a share of `lr`.
        weight_decay: decay of matrices; vectors (norms, biases) are not decayed.
        clip_norm: gradients are scaled down to this L2 norm.
        sparsity: what keeps sparse vectors sparse; None adds nothing to the loss.
        schedule: of `SCHEDULES`.
    """

    steps: int
    lr: float
    warmup_steps: int
    min_lr_ratio: float
    weight_decay: float
    clip_norm: float
    sparsity: Sparsity | None = None
    schedule: str = "cosine"

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, from 0.

        A pure function of the step, so there is no schedule state to save.
        """
        shape = SCHEDULES[self.schedule]
        return shape(self.lr, step, self.steps, self.warmup_steps, self.min_lr_ratio)

    def optimiser(self, model: nn.Module) -> torch.optim.AdamW:
        """AdamW over the trainable parameters of a model."""
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=self.lr, fused=True)

    def update(
        self, optimiser: Any, parameters: Iterable[nn.Parameter], step: int
    ) -> dict[str, float]:
        """Sum the gradients over processes, clip, step at the learning rate of `step`, clear.

        Returns:
            `grad_norm`, before clipping, and `lr`.

        Raises:
            FloatingPointError: the gradient norm is NaN or infinite; nothing has been updated.
        """
        trained = list(parameters)
        sum_gradients(trained)
        total = nn.utils.clip_grad_norm_(trained, self.clip_norm)
        norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
        if not math.isfinite(norm):
            raise FloatingPointError(f"step {step}: gradient norm {norm}; nothing was updated")
        for group in optimiser.param_groups:
            group["lr"] = self.lr_at(step)
        optimiser.step()
        optimiser.zero_grad()
        return {"grad_norm": norm, "lr": self.lr_at(step)}
