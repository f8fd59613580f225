"""Matplotlib figures as SVG text that stands inside a page and takes its colours and font."""

import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from tdro_lightning.report.tables import escape_controls, plain_text

# Drawn with stand-in colours; `inline_svg` turns them into the page's own, light or dark.
INK = "#010203"
HUES = ("#0067a5", "#b35c00", "#00805a", "#b3306b", "#6a51c8", "#7a7a00", "#5f6b78")
DARK = ("#56b4e9", "#f0a030", "#2fc08f", "#f07fb0", "#a99af5", "#d4cc4a", "#a3afba")
Dashes = Literal["-", "--", ":", "-."]
DASHES: tuple[Dashes, ...] = ("-", "--", ":", "-.")

STYLE: dict[str, Any] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 7.5,
    "figure.facecolor": "none",
    "font.size": 7.5,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    # the browser's own fonts draw the text, so that it is text, in any script
    "svg.fonttype": "none",
    "text.color": INK,
    # a dollar sign in a domain name is a dollar sign
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.labelsize": 7,
    "xtick.major.width": 0.5,
    "ytick.color": INK,
    "ytick.labelsize": 7,
    "ytick.major.width": 0.5,
    "ytick.minor.size": 0,
}


# What makes of Matplotlib's SVG one for a page: patterns with their replacements, in this order.
CHANGES = {
    r"<defs>\s*<style.*?</style>\s*</defs>": "",
    r'<(g|path) id="[^"]*_\d+"': r"<\1",
    r'<svg [^>]*viewBox="([^"]*)"[^>]*>': r'<svg viewBox="\1" role="img">',
    r" *\n *": "\n",
    'xlink:href="#': 'href="#',
    r"font: ([\d.]+px) [^;\"<]*": r"font-size: \1",
    r" font-family: [^;\"<]*;": "",
    rf"(fill|stroke): {INK}": r"\1: currentColor",
    **{rf"(fill|stroke): {hue}": rf"\1: var(--hue-{i}, {hue})" for i, hue in enumerate(HUES)},
}


@contextmanager
def figure_style(salt: str) -> Iterator[None]:
    """Draw inside this: the report's style, and ids that depend only on `salt` and the content."""
    style: Any = {**STYLE, "svg.hashsalt": escape_controls(salt)}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Matplotlib's own font lacks some scripts; it only measures here and does not draw.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def inline_svg(figure: Figure, description: str) -> str:
    """The figure as one `<svg>` element, without dates, page-wide styles or fixed colours.

    Args:
        figure: drawn inside `figure_style`, which must still be open.
        description: plain text for readers who do not see the figure.
    """
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=nothing)
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    for pattern, replacement in CHANGES.items():
        svg = re.sub(pattern, replacement, svg, flags=re.DOTALL)
    opening, rest = svg.strip().split(">", 1)
    title = html.escape(description, quote=False)
    return escape_controls(f"{opening}>\n<title>{title}</title>{rest}")


def standalone_svg(svg: str) -> str:
    """An element of `inline_svg` as a file of its own, light or dark as the reader's system is."""
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    dark = "".join(f"--hue-{i}:{hue};" for i, hue in enumerate(DARK))
    style = (
        "svg{color:#1d2329;font-family:sans-serif}"
        f"@media(prefers-color-scheme:dark){{svg{{color:#e3e6e8;{dark}}}}}"
    )
    space = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    return svg.replace("<svg", space, 1).replace("<title>", f"<style>{style}</style><title>", 1)


def colour(index: int) -> str:
    """Hue of the line with this number, one of seven."""
    return HUES[index % len(HUES)]


def dashes(index: int) -> Dashes:
    """Dash pattern of the line with this number; 28 different pairs with `colour`."""
    return DASHES[index // len(HUES) % len(DASHES)]


def shorten(name: str, length: int = 24) -> str:
    """A name on one line; from a long one the middle goes, since names often differ at the end."""
    name = plain_text(name)
    head = length // 2
    return name if len(name) <= length else f"{name[:head]}…{name[head + 1 - length :]}"


def spread_labels(positions: Mapping[str, float], gap: float) -> dict[str, float]:
    """Move positions in 0..1 apart to at least `gap`, keeping their order and moving little.

    Those that are too close form a cluster that is laid out around its own mean: less their gaps,
    the places are the rising ones nearest to the positions by least squares.
    """
    names = sorted(positions, key=lambda name: (positions[name], name))
    gaps = gap * np.arange(len(names))
    rising = isotonic_regression([positions[name] for name in names] - gaps).x
    places = np.clip(rising, 0, max(0, 1 - gaps[-1])) + gaps
    return dict(zip(names, places.tolist(), strict=True))
