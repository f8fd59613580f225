import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tdro_lightning.dro.measurement import floored_reference, smooth_ratio
from tdro_lightning.errors import ConfigError
from tests.experiments.conftest import loaded

paper, simulation = (
    loaded("measurement_simulation/paper.py"),
    loaded("measurement_simulation/toy.py"),
)
BASELINE_LOSSES, DOMAIN_WEIGHTS = paper.BASELINE_LOSSES, paper.DOMAIN_WEIGHTS
Variant, simulate = simulation.Variant, simulation.simulate
make_toy, compare_weights = simulation.make_toy, simulation.compare_weights

SPREAD = 0.012


@pytest.fixture(scope="module")
def toy() -> Any:
    return make_toy(BASELINE_LOSSES, SPREAD, 0.002)


def test_margins_reproduce_the_losses_of_table_7(toy: Any) -> None:
    """Mean InfoNCE, written out, of 400,000 rows whose own margins are evenly spaced quantiles."""
    rows = 400_000
    random = np.random.default_rng(1)
    quantiles = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    own = torch.special.ndtri(quantiles).numpy()[random.permutation(rows)]
    below = np.abs(random.standard_normal((rows, simulation.NEGATIVES)))
    competing = np.exp(-SPREAD * below / simulation.TEMPERATURE).sum(1)
    for name, centre in zip(toy.names, toy.centres.tolist(), strict=True):
        losses = np.log1p(np.exp(-(centre + SPREAD * own) / simulation.TEMPERATURE) * competing)
        assert losses.mean() == pytest.approx(BASELINE_LOSSES[name], rel=0.02), name


def test_the_losses_of_a_batch_are_info_nce(toy: Any) -> None:
    batch = toy.batch(rows=2000, step=3, seed=7)
    assert batch.reference.dtype == torch.float64
    assert batch.domain[0] == 6000 % 25
    quiet = replace(toy, proxy_noise=0.0).batch(rows=2000, step=3, seed=7)
    assert torch.equal(quiet.proxies["static"], quiet.reference)
    # a shift of every margin by d multiplies the odds of the negatives by exp(-d / T)
    shift = 0.002 - 0.03 * math.exp(-0.03)
    odds = quiet.reference.expm1() * math.exp(-shift / simulation.TEMPERATURE)
    torch.testing.assert_close(quiet.proxies["learning"], odds.log1p())


def test_the_mean_losses_of_the_batches_are_those_of_table_7(toy: Any) -> None:
    means = torch.zeros(25, dtype=torch.float64)
    for step in range(100):
        batch = toy.batch(rows=1000, step=step, seed=0)
        means.index_add_(0, batch.domain, batch.reference / 4000)
    hard = [i for i, loss in enumerate(BASELINE_LOSSES.values()) if loss > 1]
    target = torch.tensor(list(BASELINE_LOSSES.values()), dtype=torch.float64)
    torch.testing.assert_close(means[hard], target[hard], rtol=0.1, atol=0)


def test_rows_are_shared_equally_and_the_rest_takes_turns(toy: Any) -> None:
    counts = torch.stack(
        [torch.bincount(toy.batch(2048, step, 0).domain, minlength=25) for step in range(25)]
    )
    assert counts.unique().tolist() == [81, 82]
    assert counts.sum(0).tolist() == [2048] * 25


def test_a_proxy_equal_to_its_reference_moves_no_weight(toy: Any) -> None:
    still = replace(toy, proxy_noise=0.0)
    final = simulate(still, {"a": Variant("ratio", floor=0.0)}, rows=100, steps=20, seed=0)
    assert set(final["a"]["static"]) == set(toy.names)
    assert list(final["a"]["static"].values()) == pytest.approx([-math.log(25)] * 25, abs=1e-12)
    assert max(final["a"]["learning"].values()) > -math.log(25) + 1e-3


def test_equal_seeds_give_equal_weights_and_others_do_not(toy: Any) -> None:
    variants = {"a": Variant("released"), "b": Variant("smooth_ratio", floor=1.0)}
    once, again, other = (
        simulate(toy, variants, rows=100, steps=10, seed=seed) for seed in (3, 3, 4)
    )
    assert once == again
    assert once != other
    alone = simulate(toy, {"b": variants["b"]}, rows=100, steps=10, seed=3)
    assert alone["b"] == once["b"]


def test_a_short_run_ranks_as_the_long_one() -> None:
    variants = {"released": Variant("released"), "ratio": Variant("ratio", floor=0.0)}
    toy = make_toy(BASELINE_LOSSES, SPREAD, 0.006)
    runs = [simulate(toy, variants, rows=2048, steps=60, seed=seed) for seed in (0, 1)]
    assert list(runs[0]["ratio"]) == list(simulation.PROXIES)
    released = compare_weights([run["released"]["static"] for run in runs], DOMAIN_WEIGHTS)
    ratio = compare_weights([run["ratio"]["static"] for run in runs], DOMAIN_WEIGHTS)
    assert min(released.spearman) > 0.8
    assert max(ratio.spearman) < -0.8
    assert {"altlex", "SimpleWiki"} <= set(ratio.heaviest)


def test_published_weights_agree_with_themselves() -> None:
    logs = {name: math.log(weight) for name, weight in DOMAIN_WEIGHTS.items()}
    turned = {name: -log for name, log in logs.items()}
    same = compare_weights([logs, dict(reversed(logs.items()))], DOMAIN_WEIGHTS)
    assert same.spearman == pytest.approx([1, 1])
    assert same.log10_max_over_min == pytest.approx([math.log10(0.1314 / 0.0005)] * 2)
    assert same.effective_domains == pytest.approx([15.0, 15.0], abs=0.05)
    assert same.top_published == [17, 17]
    assert same.top_seeds == 17
    assert same.heaviest == ["miracl", "medmcqa", "t2ranking"]
    assert same.weights == pytest.approx(DOMAIN_WEIGHTS, abs=1e-6)
    unlike = compare_weights([logs, turned], DOMAIN_WEIGHTS)
    assert unlike.spearman == pytest.approx([1, -1])
    assert unlike.top_published == [17, 9]
    assert unlike.top_seeds == 9


def test_rank_correlation_by_hand() -> None:
    assert simulation.rank_correlation(
        [1.0, 2.0, 3.0, 4.0], [10.0, 30.0, 20.0, 40.0]
    ) == pytest.approx(0.8)


def losses() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    domain = np.arange(600) % 5
    reference = random.gamma(2.0, 0.5, 600) * np.array([1e-6, 0.3, 1.0, 2.0, 4.0])[domain]
    proxy = reference * random.gamma(9.0, 0.12, 600)
    return torch.from_numpy(proxy), torch.from_numpy(reference), torch.from_numpy(domain)


@pytest.mark.parametrize("name", sorted(simulation.CANDIDATES))
def test_candidates_are_free_of_scale_and_batch_size_and_bounded_on_solved_domains(
    name: str,
) -> None:
    proxy, reference, domain = losses()
    measure = Variant(name, floor=0.5).measure
    got = measure(proxy, reference, domain, 5)
    assert got.dtype == torch.float64
    torch.testing.assert_close(measure(7 * proxy, 7 * reference, domain, 5), got)
    thrice = measure(proxy.repeat(3), reference.repeat(3), domain.repeat(3), 5)
    torch.testing.assert_close(thrice, got)
    assert got[0] <= 1 + 1e-5
    assert measure(proxy, reference, domain, 6)[5].isnan()


def test_candidates_equal_their_definitions() -> None:
    proxy, reference, domain = losses()
    p, r, d = proxy.numpy(), reference.numpy(), domain.numpy()
    headroom = np.array([p[d == g].mean() for g in range(5)])
    means = np.array([r[d == g].mean() for g in range(5)])
    guard = 0.5 * np.median(means)
    expected = {
        "smooth_ratio": headroom / np.sqrt(means**2 + guard**2),
        "shrunk_ratio": (headroom + guard) / (means + guard),
        "row_ratio": [(p[d == g] / (r[d == g] + guard)).mean() for g in range(5)],
    }
    for name, value in expected.items():
        got = Variant(name, floor=0.5).measure(proxy, reference, domain, 5)
        np.testing.assert_allclose(got, value, rtol=1e-12)


def test_the_smooth_ratio_lies_below_the_ratio_with_the_same_floor() -> None:
    """A smooth maximum: at most a factor of the square root of 2, and that at the floor itself."""
    means = torch.tensor([1e-9, 0.1, 1.0, 2.0, 50.0], dtype=torch.float64)
    domain = torch.arange(5)
    smooth = smooth_ratio(means, means, domain, 5, floor=1.0)
    floored = means / floored_reference(means, 1.0)
    share = smooth / floored
    assert (share <= 1).all()
    assert share.min() == pytest.approx(math.sqrt(0.5))
    assert share.argmin() == 2
    assert share[[0, 4]].tolist() == pytest.approx([1, 1], abs=1e-3)


def test_the_smooth_ratio_of_solved_domains() -> None:
    domain = torch.arange(3)
    most = smooth_ratio(
        torch.tensor([3.0, 0.0, 1.0]), torch.tensor([3.0, 0.0, 0.0]), domain, 3, floor=1.0
    )
    # the median is 0; the guard is the mean, 1
    assert most.tolist() == pytest.approx([3 / math.sqrt(10), 0.0, 1.0])
    zeros = torch.zeros(3)
    assert smooth_ratio(zeros, zeros, domain, 3, floor=1.0).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "relative"}, r"name='relative' is unknown; allowed are ratio, .*row_ratio"),
        ({"name": "row_ratio", "floor": -1.0}, r"floor=-1\.0 must be 0 or more"),
        ({"name": "ratio", "gradient_norm": "half"}, r"gradient_norm='half' is unknown"),
        ({"name": "ratio", "smoothing": 1.0}, r"smoothing=1\.0 must be at least 0"),
    ],
)
def test_wrong_variants_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Variant(**settings)
