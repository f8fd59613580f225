"""The figures of dev scores: a line a run, and a dot at the step that it has kept."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from tdro_lightning.report.collect import collect_runs
from tdro_lightning.report.dev_curves import validation_curves
from tdro_lightning.report.figures import Figure
from tdro_lightning.report.sections import run_sections
from tests.report.folders import write_run

CURVE = [0.2, 0.5, 0.4]


def dots(figure: Figure) -> int:
    """Markers that are drawn, those of the ticks too."""
    root = ElementTree.fromstring(figure.svg)
    return sum(element.tag.endswith("use") and "x" in element.attrib for element in root.iter())


def test_each_metric_has_a_figure_with_the_kept_steps(tmp_path: Path) -> None:
    loss = {"validation/loss": [3.0, 2.0, 4.0], "validation/loss/easy": [1.0, 1.0, 1.0]}
    kept_step = {"best_step": {"step": 3}}
    write_run(tmp_path, "kept", history={"validation/ndcg@10": CURVE, **loss}, **kept_step)
    write_run(tmp_path, "plain", history={"validation/ndcg@10": CURVE, "loss": CURVE})
    write_run(tmp_path, "without", history={"loss": CURVE})
    runs = collect_runs([tmp_path])
    assert {run.name: run.best_step for run in runs} == {"kept": 3, "plain": None, "without": None}
    ndcg, loss_figure = validation_curves(runs)
    assert ("nDCG@10" in ndcg.title, "Loss" in loss_figure.title) == (True, True)
    assert [name in ndcg.svg for name in ("kept", "plain", "without")] == [True, True, False]
    assert [name in loss_figure.svg for name in ("kept", "plain")] == [True, False]
    bare = validation_curves([replace(run, best_step=None) for run in runs])
    for with_dots, figure in zip((ndcg, loss_figure), bare, strict=True):
        assert dots(with_dots) == dots(figure) + 1
    shown = next(section for section in run_sections(runs) if section.anchor == "training")
    (block,) = shown.blocks
    assert [figure.title for figure in block.figures][1:] == [ndcg.title, loss_figure.title]
    assert validation_curves([run for run in runs if run.name == "without"]) == []
