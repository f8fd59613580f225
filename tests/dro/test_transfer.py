import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdro_lightning.data.samplers import HomogeneousBatches
from tdro_lightning.dro import transfer as rules
from tdro_lightning.dro.transfer import (
    Mixture,
    Settings,
    check_domains,
    perturb_weights,
    select_domains,
)
from tdro_lightning.errors import ConfigError

# Table 8 of the paper, column tDRO, in the paper's order: largest first.
PAPER = {
    "miracl": 0.1314,
    "medmcqa": 0.0940,
    "t2ranking": 0.0885,
    "nq": 0.0875,
    "eli5": 0.0847,
    "yahoo_answers": 0.0838,
    "msmarco": 0.0713,
    "trivia": 0.0623,
    "gooaq_pairs": 0.0600,
    "agnews": 0.0563,
    "stackexchange_dups": 0.0472,
    "amazon_review_2018": 0.0425,
    "mr_tydi_combined": 0.0252,
    "codesearchnet": 0.0154,
    "hotpotqa": 0.0131,
    "dureader": 0.0110,
    "squad_pairs": 0.0072,
    "searchQA_top5_snippets": 0.0066,
    "xsum": 0.0063,
    "quora_duplicates": 0.0019,
    "sentence-compression": 0.0011,
    "cnn_dailymail": 0.0009,
    "SimpleWiki": 0.0007,
    "altlex": 0.0006,
    "AllNLI": 0.0005,
}
BY_NAME = sorted(PAPER)


def transfer(
    name: str, names: list[str], weights: dict[str, float], share: float = 70, seed: int = 0
) -> Mixture:
    """The mixture of domains of one size."""
    sizes = dict.fromkeys(names, 100)
    return rules.transfer(name, sizes, weights, Settings(share=share, seed=seed))


def kept(probability: dict[str, float]) -> set[str]:
    return {name for name, p in probability.items() if p > 0}


def test_top_70_per_cent_of_the_paper() -> None:
    mixture = transfer("top_share", BY_NAME, PAPER, 70)
    largest = list(PAPER)[:17]
    assert largest[-1] == "squad_pairs"
    assert kept(mixture.probability) == set(largest)
    assert {mixture.probability[name] for name in largest} == {1 / 17}
    assert list(mixture.probability) == BY_NAME
    assert mixture.loss_scale == dict.fromkeys(BY_NAME, 1.0)


def test_bottom_50_per_cent_of_the_paper() -> None:
    mixture = transfer("bottom_share", BY_NAME, PAPER, 50)
    smallest = list(PAPER)[13:]
    assert kept(mixture.probability) == set(smallest)
    assert {mixture.probability[name] for name in smallest} == {1 / 12}


def test_uniform_looks_at_no_weights() -> None:
    mixture = transfer("uniform", BY_NAME, {}, 0)
    assert mixture.probability == dict.fromkeys(BY_NAME, 0.04)
    assert mixture.loss_scale == dict.fromkeys(BY_NAME, 1.0)


def test_reweight_takes_the_weights_as_probabilities() -> None:
    mixture = transfer("reweight", BY_NAME, PAPER, 70)
    assert mixture.probability == PAPER
    assert mixture.loss_scale == dict.fromkeys(BY_NAME, 1.0)


def test_loss_reweight_scales_by_k_times_the_weight() -> None:
    weights = {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05}
    mixture = transfer("loss_reweight", list(weights), weights, 70)
    assert mixture.probability == dict.fromkeys(weights, 0.25)
    assert mixture.loss_scale == pytest.approx({"a": 2.0, "b": 1.2, "c": 0.6, "d": 0.2})
    even = transfer("loss_reweight", BY_NAME, dict.fromkeys(BY_NAME, 0.04), 70)
    assert set(even.loss_scale.values()) == {1.0}


def test_ties_go_by_name() -> None:
    weights = {"d": 0.2, "b": 0.2, "a": 0.1, "c": 0.2, "e": 0.3}
    assert select_domains(weights, 60, largest=True) == ["e", "b", "c"]
    assert select_domains(weights, 60, largest=False) == ["a", "b", "c"]
    even = dict.fromkeys("dbca", 0.25)
    assert (
        select_domains(even, 50, largest=True)
        == select_domains(even, 50, largest=False)
        == ["a", "b"]
    )


@pytest.mark.parametrize(
    ("share", "count"), [(4, 1), (7.9, 1), (8, 2), (28, 7), (50, 12), (70, 17), (99, 24), (100, 25)]
)
def test_share_rounds_down(share: float, count: int) -> None:
    assert select_domains(PAPER, share, largest=True) == list(PAPER)[:count]
    assert set(select_domains(PAPER, share, largest=False)) == set(list(PAPER)[25 - count :])


@pytest.mark.parametrize("share", [0, -1, 100.1, 700, math.nan, math.inf])
@pytest.mark.parametrize("name", ["top_share", "bottom_share"])
def test_share_out_of_bounds(name: str, share: float) -> None:
    message = f"transfer.share={share} must be above 0 and at most 100 (per cent)"
    with pytest.raises(ConfigError, match=re.escape(message)):
        transfer(name, BY_NAME, PAPER, share)


def test_share_that_keeps_nothing() -> None:
    message = "transfer.share=3.9 keeps none of the 25 domains; it must be at least 4.0"
    with pytest.raises(ConfigError, match=re.escape(message)):
        transfer("top_share", BY_NAME, PAPER, 3.9)


@pytest.mark.parametrize("name", ["top_share", "bottom_share", "reweight", "loss_reweight"])
def test_weights_of_other_domains(name: str) -> None:
    weights = {"nq": 0.5, "trec": 0.25, "simplewiki": 0.25}
    with pytest.raises(ConfigError) as caught:
        transfer(name, ["nq", "SimpleWiki", "eli5"], weights, 70)
    assert "without a weight: ['SimpleWiki', 'eli5']" in str(caught.value)
    assert "unknown in the file: ['trec', 'simplewiki']" in str(caught.value)


def test_one_direction_alone() -> None:
    with pytest.raises(ConfigError, match=r"without a weight: \['b'\]; unknown in the file: none"):
        check_domains(["a", "b"], {"a": 1.0})
    with pytest.raises(ConfigError, match=r"without a weight: none; unknown in the file: \['b'\]"):
        check_domains(["a"], {"a": 0.5, "b": 0.5})
    check_domains(["b", "a"], {"a": 0.5, "b": 0.5})


def test_unknown_rule() -> None:
    message = (
        "transfer.rule='top70' is unknown; allowed are uniform, proportional, temperature, cap, "
        "unimax, random_share, top_share, bottom_share, reweight, loss_reweight"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        transfer("top70", BY_NAME, PAPER, 70)


weights_of_any_size = st.lists(st.floats(1e-3, 1), min_size=1, max_size=30).map(
    lambda shares: {f"d{i}": share / math.fsum(shares) for i, share in enumerate(shares)}
)


@given(weights_of_any_size, st.integers(1, 100))
@settings(deadline=None)
def test_shares_split_the_domains(weights: dict[str, float], share: int) -> None:
    count = len(weights) * share // 100
    if count == 0:
        with pytest.raises(ConfigError, match="keeps none"):
            select_domains(weights, share, largest=True)
        return
    for rule, better in (("top_share", 1), ("bottom_share", -1)):
        mixture = transfer(rule, list(weights), weights, share)
        chosen = kept(mixture.probability)
        assert len(chosen) == count
        assert math.fsum(mixture.probability.values()) == pytest.approx(1)
        left = [better * weights[name] for name in set(weights) - chosen]
        assert all(better * weights[name] >= max(left, default=-2) for name in chosen)


@given(weights_of_any_size)
@settings(deadline=None)
def test_mixtures_are_on_average_a_full_loss(weights: dict[str, float]) -> None:
    mixture = transfer("loss_reweight", list(weights), weights, 70)
    mean = math.fsum(mixture.probability[name] * mixture.loss_scale[name] for name in weights)
    assert mean == pytest.approx(1)


def test_noise_is_log_normal_repeatable_and_of_the_given_size() -> None:
    names = [f"d{i}" for i in range(2000)]
    weights = dict.fromkeys(names, 1 / 2000)
    moved = perturb_weights(weights, 0.5, seed=1)
    assert sum(moved.values()) == pytest.approx(1, abs=1e-12)
    logs = np.log([moved[name] for name in names])
    assert logs.std() == pytest.approx(0.5, rel=0.05)
    assert perturb_weights(weights, 0.5, seed=1) == moved
    assert perturb_weights(weights, 0.5, seed=2) != moved
    assert perturb_weights(weights, 0.0, seed=1) == weights


def test_a_domain_s_noise_does_not_depend_on_the_others() -> None:
    few = perturb_weights({"a": 0.5, "b": 0.5}, 1.0, seed=3)
    many = perturb_weights({"c": 0.2, "b": 0.4, "a": 0.4}, 1.0, seed=3)
    assert few["a"] / few["b"] == pytest.approx(many["a"] / many["b"])


def test_negative_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"transfer\.noise=-1 must be 0 or more"):
        perturb_weights({"a": 1.0}, -1, seed=0)


def test_a_random_share_has_the_size_of_the_selection_and_needs_no_weights() -> None:
    names = list(PAPER)
    kept = [
        {n for n, p in transfer("random_share", names, {}, 70, seed).probability.items() if p > 0}
        for seed in range(200)
    ]
    assert {len(domains) for domains in kept} == {17}
    assert len(set(map(frozenset, kept))) > 190
    chosen = np.array([sum(name in domains for domains in kept) for name in names])
    # Each domain is kept with probability 17/25: 136 of 200 times, standard deviation 6.6.
    assert abs(chosen - 136).max() < 5 * 6.6
    again = transfer("random_share", names[::-1], {}, 70, 7).probability
    assert {name for name, p in again.items() if p > 0} == kept[7]


@pytest.mark.parametrize("tiny", [0.0, 1e-12])
def test_all_weight_on_one_domain(tiny: float) -> None:
    weights = {"a": 1 - 2 * tiny, "b": tiny, "c": tiny}
    mixture = transfer("reweight", ["c", "a", "b"], weights, 70)
    assert mixture.probability == weights
    assert transfer("top_share", ["c", "a", "b"], weights, 40).probability == {
        "c": 0.0, "a": 1.0, "b": 0.0,
    }  # fmt: skip
    sampler = HomogeneousBatches(
        ["c", "a", "b"], [9, 9, 9], 3, 50, seed=0,
        probability=[mixture.probability[name] for name in "cab"],
    )  # fmt: skip
    assert sampler.rows_drawn() == [0, 150, 0]


def test_the_order_of_the_file_does_not_matter() -> None:
    names = ["c", "a", "b"]
    for order in itertools.permutations({"a": 0.5, "b": 0.3, "c": 0.2}.items()):
        weights = dict(order)
        for rule in ("reweight", "top_share", "bottom_share", "loss_reweight"):
            mixture = transfer(rule, names, weights, 70)
            expected = transfer(rule, names, {"a": 0.5, "b": 0.3, "c": 0.2}, 70)
            assert mixture == expected
