"""Mixtures as files: what is written is read, and what is no mixture is refused by name."""

from pathlib import Path

import pytest
import yaml

from tdro_lightning.dro.mixture_file import MixtureFile, MixtureShare, read_mixture, write_mixture
from tdro_lightning.dro.weights_file import read_weights
from tdro_lightning.errors import DataError

SHARES = {
    "no": MixtureShare(0.3, 40, 100),  # YAML takes a bare `no` for a truth value
    "1e3": MixtureShare(0.0, 7, 7),
    "wiki: größe": MixtureShare(0.7, 1_000_000, 1_000_000, loss_scale=1.5),
}
MIXTURE = MixtureFile("top 70", 42, 8, 500, SHARES, ["drop=1e3"], {"domains": {"no": "abc"}})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_mixture(tmp_path / "mixture.yaml", MIXTURE)
    return tmp_path / "mixture.yaml"


def test_a_file_is_read_as_it_was_written(path: Path) -> None:
    assert read_mixture(path) == MIXTURE
    value = yaml.safe_load(path.read_text())
    assert value["domains"]["no"] == {"probability": 0.3, "rows": 40, "of": 100, "epochs": 30.0}
    assert value["dropped"] == {"1e3": 7}


def test_it_serves_as_weights(path: Path, tmp_path: Path) -> None:
    weights = read_weights(path)
    assert weights.last == {"no": 0.3, "wiki: größe": 0.7, "1e3": 0.0}
    assert weights.size == {"no": 100, "wiki: größe": 1_000_000, "1e3": 7}
    assert weights.lineage == {"domains": {"no": "abc"}}
    by_hand = tmp_path / "weights.yml"
    by_hand.write_text("nq: 3\n'no': 1.0\n")
    assert read_weights(by_hand).last == {"nq": 0.75, "no": 0.25}


WRONG = {
    "probability` must be a number": ("probability: 0.3", "probability: 3e-1"),
    "YAML reads 1e-3 as text": ("probability: 0.3", "probability: 3e-1"),
    "must sum to 1, they sum to 0.9": ("probability: 0.3", "probability: 0.2"),
    "rows` is 400, more than the 100": ("rows: 40\n", "rows: 400\n"),
    "`steps` must be a whole number": ("steps: 500", "steps: many"),
    "has format 2; this version reads format 1": ("format: 1", "format: 2"),
    "quoted if need be": ("'no':", "no:"),
    "not valid YAML": ("changes:", "changes: ["),
    "is no mixture": ("domains:", "domain:"),
    "`dropped` must be a mapping": ("  1e3: 7", "  - 7"),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_named(path: Path, message: str) -> None:
    before, after = WRONG[message]
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(DataError) as raised:
        read_mixture(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no: 3\n", "must be quoted, as in 'False': 0.5"),
        ("nq: 0\n", "must hold a weight above 0"),
        ("nq: -1\n", "must be a number of 0 or more, is -1"),
        ("nq: .nan\n", "must be a number of 0 or more"),
        ("- nq\n", "must hold a mapping, holds list"),
        ("nq: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_weights_by_hand_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "weights.yaml").write_text(text)
    with pytest.raises(DataError, match="weights.yaml") as raised:
        read_weights(tmp_path / "weights.yaml")
    assert message in str(raised.value)
