import math

import pytest
import torch
from torch import nn
from transformers import get_linear_schedule_with_warmup

from tdro_lightning.training.optim import Optimisation


def optimisation(**changed: float | str) -> Optimisation:
    settings = {
        "steps": 11,
        "lr": 1e-3,
        "warmup_steps": 4,
        "min_lr_ratio": 0.1,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
    }
    return Optimisation(**(settings | changed))


def test_learning_rates_by_hand() -> None:
    # Warm-up of 4, the peak at step 4, then six steps of cosine: at half way the mean of 1 and 0.1.
    rates = [optimisation().lr_at(step) for step in range(11)]
    assert rates[:5] == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])
    assert rates[6] == pytest.approx(1e-3 * (0.1 + 0.9 * 0.75))
    assert rates[7] == pytest.approx(0.55e-3)
    assert rates[8] == pytest.approx(1e-3 * (0.1 + 0.9 * 0.25))
    assert rates[10] == pytest.approx(0.1e-3)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_learning_rates_at_the_edges() -> None:
    assert optimisation(warmup_steps=0).lr_at(0) == pytest.approx(1e-3)
    assert optimisation(warmup_steps=0, min_lr_ratio=0.0).lr_at(10) == pytest.approx(0)
    assert optimisation(min_lr_ratio=1.0).lr_at(9) == pytest.approx(1e-3)
    assert optimisation().lr_at(500) == pytest.approx(0.1e-3)
    assert optimisation(steps=1, warmup_steps=0).lr_at(0) == pytest.approx(1e-3)
    assert optimisation(steps=4).lr_at(3) == pytest.approx(1e-3)


def test_only_matrices_decay_and_only_trained_parameters_are_held() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].requires_grad_(False)
    decayed, plain = optimisation(weight_decay=0.3).optimiser(model).param_groups
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight)]
    vectors = [model[0].bias, model[1].weight, model[1].bias]
    assert [id(p) for p in plain["params"]] == [id(p) for p in vectors]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)


def test_a_group_without_parameters_is_left_out() -> None:
    groups = optimisation().optimiser(nn.Linear(3, 4, bias=False)).param_groups
    assert [len(group["params"]) for group in groups] == [1]


def step_once(
    gradient: list[float], clip_norm: float
) -> tuple[nn.Parameter, torch.optim.Optimizer, dict[str, float]]:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    weight.grad = torch.tensor(gradient)
    optimiser = torch.optim.SGD([weight], lr=99.0)
    metrics = optimisation(clip_norm=clip_norm, lr=0.1).update(optimiser, [weight], 1)
    return weight, optimiser, metrics


def test_gradients_are_scaled_down_to_the_norm() -> None:
    weight, optimiser, metrics = step_once([3.0, 4.0], clip_norm=1.0)
    assert metrics == pytest.approx({"grad_norm": 5.0, "lr": 0.05})
    assert weight.tolist() == pytest.approx([1.0 - 0.05 * 0.6, -2.0 - 0.05 * 0.8], abs=1e-6)
    assert weight.grad is None
    assert optimiser.param_groups[0]["lr"] == pytest.approx(0.05)


def test_small_gradients_are_left_as_they_are() -> None:
    weight, _, metrics = step_once([0.3, 0.4], clip_norm=1.0)
    assert metrics["grad_norm"] == pytest.approx(0.5)
    assert weight.tolist() == pytest.approx([1.0 - 0.05 * 0.3, -2.0 - 0.05 * 0.4], abs=1e-6)


def test_adamw_steps_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    settings = optimisation(lr=0.1, warmup_steps=2, weight_decay=0.5, clip_norm=100.0)
    optimiser = settings.optimiser(model)
    weight = first = second = 0.0
    weight = 2.0
    for step, gradient in enumerate([0.5, -0.2, 0.1, 0.3]):
        model.weight.grad = torch.tensor([[gradient]], dtype=torch.float64)
        metrics = settings.update(optimiser, model.parameters(), step)
        assert metrics["grad_norm"] == pytest.approx(abs(gradient))
        rate = settings.lr_at(step)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9 ** (step + 1))
        spread = math.sqrt(second / (1 - 0.999 ** (step + 1)))
        weight -= rate * 0.5 * weight + rate * corrected / (spread + 1e-8)
        assert model.weight.item() == pytest.approx(weight, rel=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradients_that_are_not_finite_change_nothing(value: float) -> None:
    model = nn.Linear(2, 2)
    settings = optimisation()
    optimiser = settings.optimiser(model)
    before = [p.detach().clone() for p in model.parameters()]
    rates = [group["lr"] for group in optimiser.param_groups]
    model.weight.grad = torch.tensor([[1.0, value], [0.0, 0.0]])
    model.bias.grad = torch.ones(2)
    with pytest.raises(FloatingPointError, match=f"step 7: gradient norm {value}; nothing was upd"):
        settings.update(optimiser, model.parameters(), 7)
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert not optimiser.state
    assert [group["lr"] for group in optimiser.param_groups] == rates


@pytest.mark.parametrize(("steps", "warmup"), [(50, 2), (50, 0), (7, 7), (1, 0), (3, 9)])
def test_the_linear_schedule_is_that_of_transformers(steps: int, warmup: int) -> None:
    weight = nn.Parameter(torch.zeros(1))
    reference = torch.optim.SGD([weight], lr=1e-3)
    schedule = get_linear_schedule_with_warmup(reference, warmup, steps)
    ours = optimisation(schedule="linear", steps=steps, warmup_steps=warmup, min_lr_ratio=0.0)
    for step in range(steps + 3):
        assert ours.lr_at(step) == pytest.approx(reference.param_groups[0]["lr"], rel=1e-12)
        reference.step()
        schedule.step()


def test_the_linear_schedule_ends_at_the_least_rate() -> None:
    rates = [optimisation(schedule="linear", warmup_steps=1).lr_at(step) for step in range(12)]
    assert rates[0] == 0
    assert rates[1] == pytest.approx(1e-3)
    assert rates[6] == pytest.approx(1e-3 * (0.1 + 0.9 * 0.5))
    assert rates[11] == pytest.approx(0.1e-3)
