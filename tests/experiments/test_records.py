"""The figures of the written records, computed again from their scores."""

import json
import re
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev

import pytest

ROOT = Path(__file__).parents[2]
OF_DOMAINS = ("agnews_heldout", "codedoc_heldout", "drcd_heldout", "medquad_heldout")
PAGES = ("measurement_tdro_mini", "robustness_tdro_mini")
SCORES = {
    step: by_seed
    for page in PAGES
    for step, by_seed in json.loads(
        (ROOT / "experiments" / page / "ndcg10.json").read_text()
    ).items()
}
CELL = r"([+−]\d\.\d\d) ± (\d\.\d\d)"
LINE = re.compile(
    rf"^\| (\w+) \|(?: (reference2?) \|)? {CELL} \| {CELL} \| {CELL} \|$", re.MULTILINE
)


def gains(step: str, baseline: str, kept: bool | None) -> list[float]:
    """Gain over the baseline by seed: all sets, those of training domains, or the others."""
    return [
        100 * fmean(
            score - SCORES[baseline][seed][name]
            for name, score in scores.items()
            if kept is None or kept == (name in OF_DOMAINS)
        )
        for seed, scores in SCORES[step].items()
    ]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_gains_by_whether_a_set_is_of_a_training_domain(page: str) -> None:
    found = LINE.findall((ROOT / "experiments" / page / "README.md").read_text())
    assert len(found) >= 3
    for step, baseline, *cells in found:
        values = [gains(step, baseline or "reference", kept) for kept in (None, True, False)]
        expected = chain.from_iterable((fmean(one), stdev(one)) for one in values)
        printed = [float(cell.replace("−", "-")) for cell in cells]
        assert printed == pytest.approx(list(expected), abs=0.0051)


def test_the_readme_says_where_the_gain_is() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    winners = ("smooth_top70", "difference_top70", "released_top70")
    losses = [-fmean(gains(step, "reference", False)) for step in winners]
    stated = re.findall(r"the three lose (\d\.\d\d), (\d\.\d\d) and (\d\.\d\d)", text)[0]
    assert [float(value) for value in stated] == pytest.approx(losses, abs=0.0051)
    again = gains("difference2_top70", "reference", None)
    assert f"{fmean(again):+.2f} ± {stdev(again):.2f} by `difference`" in text
