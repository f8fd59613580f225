import itertools
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from tdro_lightning.report.svg import (
    HUES,
    INK,
    colour,
    dashes,
    figure_style,
    inline_svg,
    shorten,
    spread_labels,
)

HOSTILE = '<script>alert(1)</script> $x_1$ 百科 font: 9px x; fill: #010203 style="'


def drawing(text: str) -> str:
    with figure_style("test"):
        figure = Figure(figsize=(3, 2))
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=colour(0), marker="o")
        axes.set_title(text)
        return inline_svg(figure, f"Drawing of {text}")


def test_hostile_text_stays_text() -> None:
    root = ElementTree.fromstring(drawing(HOSTILE))
    texts = ["".join(element.itertext()) for element in root.iter("text")]
    assert any("<script>alert(1)</script> $x_1$ 百科" in text for text in texts)
    assert not list(root.iter("script"))
    assert root[0].tag == "title"
    assert len(list(root.iter("text"))) == len(
        list(ElementTree.fromstring(drawing("plain")).iter("text"))
    )


def test_no_dates_styles_or_fixed_colours_remain() -> None:
    svg = drawing("plain")
    assert svg.startswith('<svg viewBox="0 0 216 144" role="img">')
    for unwanted in (
        "<style",
        "<metadata",
        "<?xml",
        "DOCTYPE",
        "http",
        INK,
        "font-family",
        "xmlns",
    ):
        assert unwanted not in svg
    assert f"stroke: var(--hue-0, {HUES[0]})" in svg
    assert "fill: currentColor" in svg


def test_equal_content_gives_equal_bytes_and_other_salt_other_ids() -> None:
    assert drawing("plain") == drawing("plain")
    with figure_style("other"):
        figure = Figure(figsize=(3, 2))
        figure.add_subplot().plot([0, 1], [0, 1], color=colour(0), marker="o")
        other = inline_svg(figure, "other")
    ids = [set(ElementTree.fromstring(svg).iter()) for svg in (drawing("plain"), other)]
    first, second = ({e.get("id") for e in found} - {None} for found in ids)
    assert first
    assert second
    assert not first & second


def test_twenty_eight_lines_differ_in_hue_or_dashes() -> None:
    assert len({(colour(i), dashes(i)) for i in range(28)}) == 28


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nq", "nq"),
        ("a\nb\x1b", "a b\\x1b"),
        ("x" * 24, "x" * 24),
        ("stackexchange_title_title-body", "stackexchang…_title-body"),
    ],
)
def test_short_names(name: str, expected: str) -> None:
    assert shorten(name) == expected
    assert len(shorten(name)) <= 24


def test_spread_keeps_order_and_gap_inside_the_axes() -> None:
    positions = {"d": 0.99, "a": 0.5, "b": 0.5, "c": 0.52, "e": 1.0, "z": 0.0}
    placed = spread_labels(positions, 0.1)
    assert sorted(placed, key=placed.__getitem__) == ["z", "a", "b", "c", "d", "e"]
    ordered = sorted(placed.values())
    assert all(high - low >= 0.1 - 1e-9 for low, high in itertools.pairwise(ordered))
    assert ordered[0] >= 0
    assert ordered[-1] <= 1
    assert placed["z"] == 0.0
    assert placed["b"] == pytest.approx((0.5 + 0.5 + 0.52) / 3)


def test_spread_leaves_free_positions_alone() -> None:
    assert spread_labels({"a": 0.2, "b": 0.7}, 0.1) == {"a": 0.2, "b": 0.7}
