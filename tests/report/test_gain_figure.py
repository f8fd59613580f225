from pathlib import Path
from xml.etree import ElementTree

from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.gain_figure import gain_figure
from tdro_lightning.report.gains import compared
from tdro_lightning.report.trials import all_trials, baseline_pairs
from tests.report.folders import write_evaluated


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
    pairs = baseline_pairs(all_trials(collect_runs([tmp_path])), "uniform")
    figure = gain_figure(compared(pairs, "ndcg@10"), "nDCG@10")
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
