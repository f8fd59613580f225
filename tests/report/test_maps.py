import re
from xml.etree import ElementTree

import numpy as np
import pytest

from tdro_lightning.report.figures import Figure
from tdro_lightning.report.maps import FACTORS, run_map, shade, step_map
from tdro_lightning.report.runs import Series


def texts(figure: Figure) -> list[str]:
    root = ElementTree.fromstring(figure.svg)
    return ["".join(element.itertext()) for element in root.iter("text")]


@pytest.mark.parametrize(
    ("ratio", "level"),
    [(1, 0), (1.09, 0), (0.95, 0), (1.2, 1), (1 / 1.2, -1), (1.6, 2), (2, 3), (0.3, -3), (4, 4)]
    + [(100, 4), (0.25, -4), (1e-9, -4), (0, -4)],
)
def test_shades_by_hand(ratio: float, level: int) -> None:
    assert shade(ratio) == level


def boxes(figure: Figure) -> list[tuple[int, float, float, float]]:
    """Level, left, top and width of every box of the map, from the drawn paths."""
    found = []
    for path, style in re.findall(
        r'<path d="([^"]+)" clip-path="[^"]+" style="([^"]+)"', figure.svg.replace("\n", " ")
    ):
        hue = re.search(r"--hue-(\d)", style)
        opacity = re.search(r"opacity: ([\d.]+)", style)
        assert hue
        alpha = float(opacity[1]) if opacity else 1.0
        level = [0.06, 0.24, 0.45, 0.7, 1.0].index(alpha) * (1 if hue[1] == "0" else -1)
        for part in path.split("z")[:-1]:
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", part)]
            xs, ys = numbers[::2], numbers[1::2]
            found.append((level, min(xs), min(ys), max(xs) - min(xs)))
    return found


def test_every_step_of_every_domain_has_its_shade() -> None:
    random = np.random.default_rng(0)
    values = random.dirichlet([0.7] * 4, size=30)
    names = ["a", "b", "c", "d"]
    series = {n: Series(tuple(range(30)), tuple(values[:, i])) for i, n in enumerate(names)}
    figure = step_map(series, "test")
    found = boxes(figure)
    left = min(box[1] for box in found)
    step = (max(b[1] + b[3] for b in found) - left) / 30
    rows = sorted({round(box[2], 1) for box in found})
    order = sorted(range(4), key=lambda i: -values[-1, i])
    assert [t for t in texts(figure) if t in names] == [names[i] for i in order]
    drawn = np.full((4, 30), 99)
    for level, x, y, width in found:
        begin, end = round((x - left) / step), round((x + width - left) / step)
        drawn[rows.index(round(y, 1)), begin:end] = level
    assert drawn.tolist() == [[shade(4 * value) for value in values[:, i]] for i in order]


def test_many_steps_are_averaged() -> None:
    steps = tuple(range(1000))
    series = {"up": Series(steps, (0.9,) * 1000), "down": Series(steps, (0.1,) * 1000)}
    figure = step_map(series, "test")
    assert "the mean of 10 logged steps" in figure.caption
    assert len(boxes(figure)) == 2  # neighbours of one shade are one box
    assert len(figure.svg) < 20_000


@pytest.mark.parametrize("runs", [2, 5, 18])
def test_runs_stand_beside_each_other(runs: int) -> None:
    ratios = {f"a long name of run {i}": {"nq": 2.0, "<b>": 0.0} for i in range(runs)}
    ratios["without nq"] = {"<b>": 1.0}
    figure = run_map(ratios, "Title", "Caption")
    shown = texts(figure)
    assert {*ratios, "nq", "<b>"} <= set(shown)
    assert shown.index("nq") < shown.index("<b>")
    assert shown.count("2.0") == (runs if runs < 12 else 0)
    assert f"≥ {FACTORS[-1]:g}×" in shown
