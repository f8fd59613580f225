"""The parts of a docstring: summary, body, sentences, parameter descriptions."""

import re
from collections.abc import Iterator
from itertools import takewhile

SECTION = re.compile(
    r"(args|arguments|parameters|keyword args|keyword arguments|attributes):?$", re.IGNORECASE
)
SPHINX = re.compile(
    r"[:@](?:param|parameter|arg|argument|keyword|kwarg)\s+"
    r"(?:[\w.\[\], |]+ )?\*{0,2}(\w+)\s*:\s*(.*)"
)
GOOGLE = re.compile(r"\*{0,2}`{0,2}(\w+)`{0,2}\s*(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*:\s+(.*)")
NUMPY = re.compile(r"\*{0,2}`{0,2}(\w+)`{0,2}(?:\s*,\s*\*{0,2}\w+)*\s*(?::.*)?()$")
DASHED = re.compile(r"[-*]?\s*['\"]?([a-z_]\w*)['\"]?\s+--\s+(.+)")


def summary_body(doc: str) -> tuple[str, str]:
    """The first paragraph on one line, and all that follows it."""
    first, _, rest = doc.strip().partition("\n\n")
    return " ".join(first.split()), rest.strip("\n")


def sentences(text: str) -> list[str]:
    """Sentences of the prose in `text`, each on one line; code, lists and tables are left out."""
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        if re.search(r"^\s*(>>>|[-*+|=]|:\w|\.\. )|[{}=|<>\\_~]", paragraph, re.M):
            continue
        line = " ".join(paragraph.split())
        found += [s for s in re.split(r"(?<=[a-z)][.!?])\s+(?=[A-Z])", line) if s[:1].isupper()]
    return [s for s in found if s.endswith((".", "!", "?"))]


def parameters(doc: str) -> Iterator[tuple[str, str]]:
    """(name, description on one line) of each parameter a docstring describes.

    Reads Sphinx fields, Google and NumPy sections, and the `name -- description` lines of the
    standard library.
    """
    lines = doc.splitlines()
    style, level = "", 0
    for i, line in enumerate(lines):
        text, indent = line.strip(), _indent(line)
        underlined = i + 1 < len(lines) and re.fullmatch(r"\s*[-=]{3,}\s*", lines[i + 1])
        if underlined or (SECTION.match(text) and text.endswith(":")):
            style = ("numpy" if underlined else "google") if SECTION.match(text) else ""
            level = indent if underlined else _indent(next(filter(str.strip, lines[i + 1 :]), ""))
            # Entries no deeper than their heading cannot be told from the text after them.
            style = "" if style == "google" and level <= indent else style
            continue
        if text and indent < level:
            style = ""
        match = SPHINX.match(text) or DASHED.match(text)
        if not match and style and indent == level:
            match = (GOOGLE if style == "google" else NUMPY).match(text)
        if match:
            yield match[1], " ".join([match[2], *_continuation(lines[i + 1 :], indent)]).strip()


def _continuation(lines: list[str], indent: int) -> list[str]:
    deeper = takewhile(lambda line: line.strip() and _indent(line) > indent, lines)
    return [line.strip() for line in deeper]


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
