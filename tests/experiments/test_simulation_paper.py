from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.experiments.conftest import loaded

paper = loaded("measurement_simulation/paper.py")
BASELINE_LOSSES, DOMAIN_WEIGHTS = paper.BASELINE_LOSSES, paper.DOMAIN_WEIGHTS
CATALOGUE = Path(__file__).parents[2] / "conf/domains/paper25.yaml"


@pytest.mark.parametrize("table", [BASELINE_LOSSES, DOMAIN_WEIGHTS])
def test_the_names_are_those_of_the_catalogue(table: dict[str, float]) -> None:
    assert len(table) == 25
    assert list(table) == list(OmegaConf.load(CATALOGUE).catalogue)


def test_the_weights_sum_to_one() -> None:
    assert sum(DOMAIN_WEIGHTS.values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "loss", "weight"),
    [
        ("yahoo_answers_title_answer", 3.9257, 0.0838),
        ("miracl", 2.2658, 0.1314),
        ("altlex", 0.0163, 0.0006),
        ("stackexchange_duplicate_questions_title-body_title-body", 1.3679, 0.0472),
    ],
)
def test_spot_numbers(name: str, loss: float, weight: float) -> None:
    assert BASELINE_LOSSES[name] == loss
    assert DOMAIN_WEIGHTS[name] == weight


def test_the_totals_of_both_tables() -> None:
    """Sums over the tables as the paper prints them."""
    assert sum(BASELINE_LOSSES.values()) == pytest.approx(30.5032, abs=1e-9)
    assert sum(DOMAIN_WEIGHTS.values()) == pytest.approx(1.0, abs=1e-9)
