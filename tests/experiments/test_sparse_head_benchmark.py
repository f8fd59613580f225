"""The benchmark of the sparse head, on a few hundred terms and in this process."""

import argparse

import pytest

from tests.experiments.conftest import EXPERIMENTS, loaded


@pytest.mark.parametrize("case", ["trained", "untrained"])
def test_all_heads_compute_the_same(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the script fails. About 400 terms of a text are active, or all of them."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "benchmarks"))
    script = loaded("benchmarks/sparse_head.py")
    options = argparse.Namespace(texts=3, tokens=16, hidden=32, terms=700, seed=0, rounds=2)
    heads = script.contenders([100])
    found = script.seconds(options, case, heads)
    assert {name: len(rounds) for name, rounds in found.items()} == dict.fromkeys(heads, 2)
    table = script._table(case, found, {"tile 100": 1.0, "sentence-transformers": 8, "naive": 4})
    assert [row[-1].text for row in table.rows] == ["1.000", "2.000", "0.250"]
    inputs = script.Inputs(options, case)
    vectors = script.naive(inputs.states, inputs.weight, inputs.bias, inputs.mask)
    active = (vectors > 0).sum(1)
    assert (active == 700).all() if case == "untrained" else (active - 400).abs().max() < 60
