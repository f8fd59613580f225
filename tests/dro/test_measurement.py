import numpy as np
import pytest
import torch

from tdro_lightning.dro.measurement import Measurement, domain_means, floored_reference
from tdro_lightning.errors import ConfigError


def losses(seed: int, samples: int = 512, domains: int = 6) -> tuple[torch.Tensor, ...]:
    random = np.random.default_rng(seed)
    domain = np.concatenate([np.arange(domains), random.integers(domains, size=samples - domains)])
    proxy = random.gamma(2.0, 0.7, samples)
    reference = random.gamma(2.0, 0.6, samples) * (1 + domain)
    return tuple(map(torch.from_numpy, (proxy, reference, domain)))


def expected(name: str, proxy, reference, domain, domains: int, floor: float) -> np.ndarray:
    """The definitions of algorithm and paper, written with loops."""
    p, r = np.asarray(proxy, np.float64), np.asarray(reference, np.float64)
    d = np.asarray(domain)
    scaled = r / r.mean() / 512
    scaled = np.where(scaled < 1e-4, 1.0, scaled)
    means = np.array([r[d == g].mean() for g in range(domains)])
    out = np.empty(domains)
    for g in range(domains):
        mine = d == g
        if name == "ratio":
            out[g] = p[mine].mean() / max(means[g], floor * np.median(means))
        elif name == "smooth_ratio":
            out[g] = p[mine].mean() / np.sqrt(means[g] ** 2 + (floor * np.median(means)) ** 2)
        elif name == "released":
            out[g] = np.maximum(p[mine] / scaled[mine], 0).mean()
        elif name == "difference":
            out[g] = np.maximum(p[mine] - r[mine], 0).mean()
        else:
            out[g] = p[mine].mean()
    return out


@pytest.mark.parametrize("name", ["ratio", "smooth_ratio", "released", "difference", "plain"])
@pytest.mark.parametrize("floor", [0.0, 0.5])
def test_each_measurement_equals_its_definition(name: str, floor: float) -> None:
    proxy, reference, domain = losses(seed=1)
    got = Measurement(name, floor)(proxy, reference, domain, 6)  # type: ignore[arg-type]
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got, expected(name, proxy, reference, domain, 6, floor), rtol=1e-12)


def test_released_equals_the_released_arithmetic_on_512_samples() -> None:
    proxy, reference, domain = losses(seed=2)
    reference[:40] = 1e-5  # solved samples, under the threshold
    normalised = torch.nn.functional.normalize(reference, p=1, dim=0)
    normalised[normalised < 1e-4] = 1
    per_sample = (proxy / normalised).clamp(min=0)
    by_hand = [per_sample[domain == g].mean() for g in range(6)]
    got = Measurement("released")(proxy, reference, domain, 6)
    torch.testing.assert_close(got, torch.stack(by_hand))


def test_released_does_not_move_with_the_batch_size() -> None:
    proxy, reference, domain = losses(seed=3)
    measure = Measurement("released")
    once = measure(proxy, reference, domain, 6)
    thrice = measure(proxy.repeat(3), reference.repeat(3), domain.repeat(3), 6)
    torch.testing.assert_close(once, thrice)


def test_ratio_is_free_of_the_scale_of_all_losses() -> None:
    proxy, reference, domain = losses(seed=4)
    measure = Measurement("ratio")
    torch.testing.assert_close(
        measure(7 * proxy, 7 * reference, domain, 6), measure(proxy, reference, domain, 6)
    )


@pytest.mark.parametrize("name", ["ratio", "released", "difference", "plain"])
def test_renumbered_domains_give_renumbered_measurements(name: str) -> None:
    proxy, reference, domain = losses(seed=5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    measure = Measurement(name)  # type: ignore[arg-type]
    renumbered = measure(proxy, reference, order[domain], 6)
    torch.testing.assert_close(renumbered[order], measure(proxy, reference, domain, 6))


def test_the_floor_holds_a_solved_domain_down() -> None:
    means = torch.tensor([1.0, 2.0, 3.0, 1e-9])
    assert floored_reference(means, 0.5).tolist() == [1.0, 2.0, 3.0, 0.75]
    assert floored_reference(means, 0.0).tolist() == means.tolist()


def test_an_absent_domain_is_nan_and_does_not_move_the_floor() -> None:
    proxy, reference = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 8.0])
    got = Measurement("ratio")(proxy, reference, torch.tensor([0, 2]), 3)
    assert got[1].isnan()
    assert got[[0, 2]].tolist() == [0.4, 0.5]  # the floor is 2.5, half the median of 2 and 8


def test_domain_means_accumulate_in_float64() -> None:
    values = torch.full((100_000,), 0.1, dtype=torch.float32)
    mean = domain_means(values, torch.zeros(100_000, dtype=torch.long), 1)
    assert mean.item() == pytest.approx(values[0].double().item(), abs=1e-12)


def test_unknown_names_and_floors_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"measurement='relative'.*ratio, released"):
        Measurement("relative")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"reference_floor=-1 must be 0 or more"):
        Measurement("ratio", -1)


def test_solved_domains_meet_their_policy() -> None:
    """Zero reference loss: floored; zero on both sides: 1; all solved: nobody moves."""
    domain = torch.arange(3)
    ratio = Measurement("ratio")
    one_solved = ratio(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([2.0, 4.0, 0.0]), domain, 3)
    assert one_solved.tolist() == [0.5, 0.25, 1.0]  # the floor is 1, half the median of 2
    most_solved = ratio(torch.tensor([3.0, 0.0, 1.0]), torch.tensor([3.0, 0.0, 0.0]), domain, 3)
    assert most_solved.tolist() == [1.0, 0.0, 2.0]  # the median is 0; the floor is half the mean, 1
    zeros = torch.zeros(3)
    assert ratio(zeros, zeros, domain, 3).tolist() == [1.0, 1.0, 1.0]
    for name in ("released", "difference", "plain"):
        assert Measurement(name)(zeros, zeros, domain, 3).tolist() == [0.0] * 3  # type: ignore[arg-type]


def test_eq_5_as_written_is_infinite_on_a_solved_reference() -> None:
    got = Measurement("ratio", 0.0)(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([0]), 1)
    assert got.isinf().all()


def test_a_floor_is_lost_where_half_of_the_domains_are_solved() -> None:
    def lost(name: str, floor: float, *reference: float) -> bool:
        return Measurement(name, floor).floor_is_ineffective(torch.tensor(reference))

    for name in ("ratio", "smooth_ratio"):
        assert lost(name, 0.5, 0.0, 0.01, 0.03, 2.0)  # median 0.02, mean 0.51
        assert not lost(name, 0.5, 0.0, 0.01, 0.2, 2.0)  # median 0.105, mean 0.55
        assert not lost(name, 0.5, 1.0, 2.0, 3.0, 4.0)
        assert not lost(name, 0.5, 0.0, 0.0, 0.0, 2.0)  # the median is 0, so the mean stands for it
        assert not lost(name, 0.0, 0.0, 0.01, 0.03, 2.0)  # Eq. 5 as written has none
    for name in ("released", "difference", "plain"):
        assert not lost(name, 0.5, 0.0, 0.01, 0.03, 2.0)


def test_guards_are_counted() -> None:
    domain = torch.tensor([0, 0, 1, 1, 2, 2])
    reference = torch.tensor([2.0, 2.0, 2.0, 2.0, 0.5, 0.5])
    assert Measurement("ratio").guarded_share(reference, domain, 4)[:3].tolist() == [0.0, 0.0, 1.0]
    assert Measurement("ratio").guarded_share(reference, domain, 4)[3].isnan()
    solved = torch.tensor([2.0, 2.0, 2.0, 0.0, 0.0, 0.0])
    assert Measurement("released").guarded_share(solved, domain, 3).tolist() == [0.0, 0.5, 1.0]
    assert Measurement("plain").guarded_share(reference, domain, 3).tolist() == [0.0] * 3
