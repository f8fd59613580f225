import pytest

from tdro_lightning.evaluation.averages import mean_over_sets


def test_parts_of_a_group_count_once() -> None:
    assert mean_over_sets({"nq": 0.5, "fever": 0.7}) == pytest.approx(0.6)
    parts = {"cqadupstack/tex": 0.2, "cqadupstack/gis": 0.4, "nq": 0.5, "fever": 0.7}
    assert mean_over_sets(parts) == pytest.approx((0.3 + 0.5 + 0.7) / 3)
    assert mean_over_sets({"cqadupstack/tex": 0.2, "cqadupstack/gis": 0.4}) == pytest.approx(0.3)
