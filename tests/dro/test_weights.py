import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tdro_lightning.dro.weights import DomainWeights, fill_absent, normalise_gradient
from tdro_lightning.errors import ConfigError

NAMES = ["a", "b", "c", "d"]


def numpy_steps(measurements, rate, how, smoothing=0.0, ema=0.1):
    """Eq. 4 in linear space, an independent way to the same numbers."""
    alpha = np.full(len(NAMES), 1 / len(NAMES))
    average, moving = alpha.copy(), alpha.copy()
    for t, measured in enumerate(measurements):
        norm = np.sqrt((measured**2).sum())
        scale = {"clip": min(1, 1 / norm), "unit": 1 / norm, "none": 1.0}[how]
        alpha = alpha * np.exp(rate * scale * measured)
        alpha = alpha / alpha.sum()
        alpha = (1 - smoothing) * alpha + smoothing / len(alpha)
        average = (t * average + alpha) / (t + 1)
        moving = (1 - ema) * moving + ema * alpha
    return alpha, average, moving


@pytest.mark.parametrize("how", ["clip", "unit", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 1e-3])
def test_fifty_steps_equal_numpy(how: str, smoothing: float) -> None:
    measurements = np.random.default_rng(0).gamma(1.0, 1.0, (50, len(NAMES)))
    weights = DomainWeights(NAMES, 2e-2, how, smoothing)  # type: ignore[arg-type]
    for measured in measurements:
        weights.step(torch.from_numpy(measured))
    last, mean, ema = numpy_steps(measurements, 2e-2, how, smoothing)
    np.testing.assert_allclose(weights.last, last, atol=1e-12)
    np.testing.assert_allclose(weights.mean, mean, atol=1e-12)
    np.testing.assert_allclose(weights.ema, ema, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1e6), min_size=4, max_size=4), min_size=1, max_size=30))
def test_weights_stay_on_the_simplex(measurements: list[list[float]]) -> None:
    weights = DomainWeights(NAMES, 0.5)
    for measured in measurements:
        weights.step(torch.tensor(measured))
    for values in (weights.last, weights.mean, weights.ema):
        assert values.sum().item() == pytest.approx(1, abs=1e-9)
        assert (values > 0).all()


def test_ten_thousand_steps_against_one_domain_lose_no_weight() -> None:
    weights = DomainWeights(["rising", "falling"], 0.05)
    for _ in range(10_000):
        weights.step(torch.tensor([1.0, 0.0]))
    # In linear space the second weight would have underflowed to 0 and never returned.
    assert weights.log_weights[1].item() == pytest.approx(-500, abs=1)
    assert torch.isfinite(weights.log_weights).all()


def test_one_domain_keeps_all_the_weight() -> None:
    weights = DomainWeights(["only"])
    assert weights.step(torch.tensor([3.0])).tolist() == [1.0]


def test_equal_measurements_move_nothing() -> None:
    weights = DomainWeights(NAMES)
    torch.testing.assert_close(
        weights.step(torch.full((4,), 9.0)), torch.full((4,), 0.25, dtype=torch.float64)
    )


def test_clipping_only_ever_scales_down() -> None:
    small, large = torch.tensor([0.3, 0.4]), torch.tensor([3.0, 4.0])
    assert normalise_gradient(small, "clip").tolist() == small.tolist()
    torch.testing.assert_close(normalise_gradient(large, "clip"), torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(normalise_gradient(small, "unit"), torch.tensor([0.6, 0.8]))
    assert normalise_gradient(torch.zeros(2), "unit").tolist() == [0.0, 0.0]
    assert normalise_gradient(large, "none").tolist() == large.tolist()


def test_an_absent_domain_keeps_its_last_measurement() -> None:
    nan = float("nan")
    first = fill_absent(torch.tensor([1.0, nan, 3.0]), torch.tensor([nan, nan, nan]))
    assert first.tolist() == [1.0, 2.0, 3.0]
    assert fill_absent(torch.tensor([5.0, nan, 3.0]), first).tolist() == [5.0, 2.0, 3.0]


def test_an_infinite_measurement_stops_before_the_update() -> None:
    weights = DomainWeights(NAMES)
    with pytest.raises(FloatingPointError, match=r"not finite.*'b': inf"):
        weights.step(torch.tensor([1.0, float("inf"), 1.0, 1.0]))
    assert weights.updates == 0
    assert weights.last.tolist() == [0.25] * 4


def test_state_continues_bit_for_bit_under_another_domain_order() -> None:
    measurements = torch.from_numpy(np.random.default_rng(1).gamma(1.0, 1.0, (20, 4)))
    whole = DomainWeights(NAMES)
    for measured in measurements:
        whole.step(measured)
    first = DomainWeights(NAMES)
    for measured in measurements[:9]:
        first.step(measured)
    order = torch.tensor([2, 0, 3, 1])
    second = DomainWeights([NAMES[i] for i in order])
    second.load_state_dict(first.state_dict())
    for measured in measurements[9:]:
        second.step(measured[order])
    assert second.updates == whole.updates == 20
    for key in ("last", "mean", "ema"):
        torch.testing.assert_close(
            getattr(second, key), getattr(whole, key)[order], rtol=1e-13, atol=0
        )
    same_order = DomainWeights(NAMES)
    same_order.load_state_dict(first.state_dict())
    for measured in measurements[9:]:
        same_order.step(measured)
    assert torch.equal(same_order.log_weights, whole.log_weights)
    assert torch.equal(same_order.mean, whole.mean)


def test_state_of_other_domains_is_refused() -> None:
    with pytest.raises(ConfigError, match="checkpoint holds weights of"):
        DomainWeights(["x"]).load_state_dict(DomainWeights(NAMES).state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": []}, "expected distinct names"),
        ({"names": ["a", "a"]}, "expected distinct names"),
        ({"names": NAMES, "learning_rate": 0.0}, "weights_lr=0.0 must be above 0"),
        ({"names": NAMES, "gradient_norm": "l2"}, "gradient_norm='l2' is unknown"),
        ({"names": NAMES, "smoothing": 1.0}, "smoothing=1.0 must be at least 0 and below 1"),
        ({"names": NAMES, "ema": 0.0}, "ema=0.0 must be above 0 and at most 1"),
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DomainWeights(**arguments)


def test_absences_are_counted_and_continued() -> None:
    nan = float("nan")
    weights = DomainWeights(NAMES)
    weights.step(torch.tensor([1.0, nan, 1.0, nan]))
    weights.step(torch.tensor([1.0, nan, 1.0, 1.0]))
    assert weights.absences.tolist() == [0, 2, 0, 1]
    continued = DomainWeights(NAMES)
    continued.load_state_dict(weights.state_dict())
    assert continued.absences.tolist() == [0, 2, 0, 1]
    assert torch.isfinite(weights.last).all()
