from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.figures import (
    Figure,
    gain_figure,
    loss_panels,
    measurement_panels,
    training_curves,
    weight_bars,
    weight_trajectories,
)
from tdro_lightning.report.gains import compare_with_baselines
from tdro_lightning.report.results import baseline_pairs, results_over_seeds
from tdro_lightning.report.runs import DomainWeight, Series
from tests.report.folders import write_evaluated


def texts(figure: Figure) -> list[str]:
    root = ElementTree.fromstring(figure.svg)
    return ["".join(element.itertext()) for element in root.iter("text")]


def curves(count: int, steps: int = 30) -> dict[str, Series]:
    random = np.random.default_rng(0)
    return {
        f"domain {i}": Series(
            tuple(range(1, steps + 1)), tuple(map(float, random.uniform(0.1, 2, steps)))
        )
        for i in range(count)
    }


def test_bars_name_all_domains_from_largest_to_smallest() -> None:
    weights = [DomainWeight(f"domain {i}", 1, i / 300, None, None) for i in range(25)]
    figure = weight_bars(weights, "test")
    names = [text for text in texts(figure) if text.startswith("domain ") and text[-1].isdigit()]
    assert names == [f"domain {i}" for i in range(25)]
    assert "0.0800" in texts(figure)
    assert "1/25 = 0.0400" in figure.caption


@pytest.mark.parametrize("count", [1, 8, 25, 40])
def test_trajectories_name_every_line_without_overlap(count: int) -> None:
    figure = weight_trajectories(curves(count), "test")
    root = ElementTree.fromstring(figure.svg)
    places = []
    for element in root.iter("text"):
        if "".join(element.itertext()).startswith("domain ") and element.text != "domain weight":
            places.append(float(element.attrib["y"]))
    assert len(places) == count
    assert np.diff(sorted(places)).min(initial=99) > 10


def test_trajectories_survive_collapse_zero_and_nan() -> None:
    series = {
        "up": Series((1, 2), (0.5, 1.0)),
        "down": Series((1, 2), (0.5, 1e-30)),
        "zero": Series((1, 2), (0.5, 0.0)),
        "nan": Series((1, 2), (0.5, float("nan"))),
    }
    assert {"up", "down", "zero", "nan"} <= set(texts(weight_trajectories(series, "test")))


def test_axis_numbers_of_the_logarithmic_axis_are_plain() -> None:
    narrow = {"a": Series((1, 2), (0.05, 0.06)), "b": Series((1, 2), (0.05, 0.04))}
    wide = {"a": Series((1, 2), (0.05, 0.9)), "b": Series((1, 2), (0.05, 0.001))}
    assert len(numbers(narrow)) >= 4
    assert all(0.04 <= float(text) <= 0.06 for text in numbers(narrow))
    assert {"0.01", "0.1"} <= set(numbers(wide))


def numbers(series: dict[str, Series]) -> list[str]:
    return [text for text in texts(weight_trajectories(series, "test")) if text.startswith("0.")]


def test_panels_name_every_domain() -> None:
    both = loss_panels(curves(12), curves(11), "test")
    assert [text for text in texts(both) if text.startswith("domain")] == list(curves(12))
    assert both.svg.count("stroke-dasharray") >= 11
    alone = measurement_panels(curves(3), "test")
    assert [text for text in texts(alone) if text.startswith("domain")] == list(curves(3))


def test_long_curves_are_averaged_and_the_caption_says_so() -> None:
    short_ = training_curves(curves(2, 200), "test")
    long = training_curves(curves(2, 1000), "test")
    assert "mean of" not in short_.caption
    assert "each point is the mean of 5 logged steps" in long.caption
    assert len(long.svg) < 1.2 * len(short_.svg)


def test_a_run_that_starts_with_an_underscore_is_named() -> None:
    assert "_hidden" in texts(training_curves({"_hidden": Series((1, 2), (2.0, 1.0))}, "test"))


def test_equal_input_gives_equal_bytes() -> None:
    assert weight_trajectories(curves(5), "x") == weight_trajectories(curves(5), "x")


def test_gains_stand_from_largest_to_smallest_without_the_untrained(tmp_path: Path) -> None:
    base = [0.1 * (i % 5) for i in range(40)]
    for seed in (1, 2):
        scores = {
            "uniform": base,
            "better": [value + 0.2 for value in base],
            "same": base,
            "worse": [value - 0.05 + 0.001 * seed for value in base],
            "bm25": [0.9] * 40,
        }
        for label, values in scores.items():
            write_evaluated(
                tmp_path, f"c/{label}", {label: {"nq": values}}, seed=seed, folder=f"{seed}{label}"
            )
    pairs = baseline_pairs(results_over_seeds(collect_runs([tmp_path])), "uniform")
    figure = gain_figure(compare_with_baselines(pairs, "ndcg@10"), "nDCG@10")
    assert figure is not None
    root = ElementTree.fromstring(figure.svg)
    texts = ["".join(e.itertext()) for e in root.iter("text")]
    places = {text: float(e.attrib["y"]) for e, text in zip(root.iter("text"), texts, strict=True)}
    names = [text for text in sorted(places, key=lambda t: places[t]) if text in scores]
    assert names == ["better", "same", "worse"]
    assert {"+20.0*", "0.0", "−4.9†"} <= set(texts) or {"+20.0*", "0.0", "−4.8†"} <= set(texts)
    assert "short strokes are single seeds" in figure.caption
    assert "difference in nDCG@10 × 100 from uniform" in texts


def test_without_a_comparison_there_is_no_figure() -> None:
    assert gain_figure([], "nDCG@10") is None
