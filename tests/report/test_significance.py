import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from tdro_lightning.errors import DataError
from tdro_lightning.report.significance import PairedTest, holm, query_test, seed_test


def drawn(seed: int, size: int, mean: float = 0.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(mean, 1, size)


def test_one_set_is_the_paired_t_test() -> None:
    ours, theirs = drawn(0, 40), drawn(1, 40, -0.3)
    tested = query_test([ours - theirs])
    known = stats.ttest_rel(ours, theirs)
    assert tested.difference == pytest.approx((ours - theirs).mean())
    assert tested.t_test == pytest.approx(known.pvalue)
    assert (tested.low, tested.high) == pytest.approx(tuple(known.confidence_interval(0.95)))


def test_several_sets_are_welch_s_t_test() -> None:
    """With weights 1 and -1 the weighted sum is the difference that Welch's test is known for."""
    one, other = drawn(0, 20), 3 * drawn(1, 33, 0.4)
    tested = query_test([one, other], [1.0, -1.0])
    known = stats.ttest_ind(one, other, equal_var=False)
    assert tested.t_test == pytest.approx(known.pvalue)
    assert (tested.low, tested.high) == pytest.approx(tuple(known.confidence_interval(0.95)))


def test_an_average_over_sets_agrees_with_the_bootstrap() -> None:
    sets = [drawn(seed, size, 0.2) for seed, size in enumerate((60, 200, 400))]
    tested = query_test(sets, [1 / 3] * 3)
    assert tested.difference == pytest.approx(np.mean([one.mean() for one in sets]))
    known = stats.bootstrap(
        sets,
        lambda *given, axis: np.mean([one.mean(axis=axis) for one in given], axis=0),
        n_resamples=4000,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert (tested.low, tested.high) == pytest.approx(tuple(known), abs=0.02)


def test_random_signs_give_the_share_of_all_patterns() -> None:
    values = drawn(0, 10, 0.7)
    sums = [np.dot(signs, values) for signs in itertools.product([-1, 1], repeat=10)]
    share = np.mean(np.abs(sums) >= abs(values.sum()) - 1e-12)
    assert 0.01 < share < 0.2
    assert query_test([values]).randomisation == pytest.approx(share, abs=0.01)


def test_sets_weigh_alike_under_random_signs() -> None:
    """A set of few queries with a large gain, and many queries without any."""
    few, many = drawn(0, 30, 1.5), np.zeros(2000)
    alone = query_test([few]).randomisation
    assert alone == pytest.approx(0.0001, abs=0.0002)
    assert query_test([few, many], [0.5, 0.5]).randomisation == alone


def test_the_same_differences_give_the_same_p() -> None:
    values = drawn(0, 50, 0.2)
    assert query_test([values]) == query_test([values])
    assert query_test([values]).randomisation != query_test([values], seed=1).randomisation


def test_what_cannot_be_tested_has_no_t_test() -> None:
    assert query_test([np.zeros(9)]) == PairedTest(0.0, None, None, None, 1.0)
    assert query_test([np.array([0.5])]).t_test is None
    with pytest.raises(DataError, match="without queries"):
        query_test([np.array([])])


def test_seeds_are_tested_by_their_differences() -> None:
    tested = seed_test([1.2, 0.9, 1.4])
    known = stats.ttest_1samp([1.2, 0.9, 1.4], 0)
    assert tested.t_test == pytest.approx(known.pvalue)
    assert (tested.low, tested.high) == pytest.approx(tuple(known.confidence_interval(0.95)))
    assert tested.randomisation is None
    assert seed_test([1.2]).t_test is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def alike(rng: np.random.Generator, queries: int) -> NDArray[np.float64]:
    """Difference in nDCG@10 of two retrievers that are equally good, one relevant document each."""
    found = np.clip(rng.beta(0.6, 0.9, queries), 0.02, 1)
    ranks = rng.geometric(found, (2, queries))
    scores = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0)
    return scores[0] - scores[1]


def test_five_in_a_hundred_null_differences_are_called_significant() -> None:
    rng = np.random.default_rng(0)
    tests = [query_test([alike(rng, 60)], resamples=999, seed=i) for i in range(2500)]
    assert np.mean([one.t_test < 0.05 for one in tests]) == pytest.approx(0.05, abs=0.01)
    assert np.mean([one.randomisation < 0.05 for one in tests]) == pytest.approx(0.05, abs=0.01)
    missed = np.mean([not one.low <= 0 <= one.high for one in tests])
    assert missed == pytest.approx(0.05, abs=0.01)


def test_holm_keeps_the_level_over_all_sets() -> None:
    """Of eight sets without a difference, a table shows a star in at most 5 of 100 tables."""
    rng = np.random.default_rng(1)
    wrong = 0
    for table in range(400):
        tests = [query_test([alike(rng, 40)], resamples=999, seed=table) for _ in range(8)]
        wrong += min(holm([one.randomisation for one in tests])) < 0.05
    assert wrong / 400 <= 0.06


def test_a_real_difference_is_found() -> None:
    found = [query_test([drawn(seed, 300, 0.4)], resamples=999) for seed in range(50)]
    assert all(one.t_test < 0.05 and one.randomisation < 0.05 for one in found)
