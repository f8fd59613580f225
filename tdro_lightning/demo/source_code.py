"""What Python source says: docstrings, bodies, error messages, comments, options."""

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import chain, groupby, takewhile
from textwrap import dedent

from tdro_lightning.demo.sources import Module

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef

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


def definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """(name below the module, node) of classes, functions and methods, not of what they define."""
    for node in body:
        if isinstance(node, Definition):
            yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from definitions(node.body, f"{prefix}{node.name}.")


def code(module: Module, node: Function, without: ast.stmt | None = None) -> str:
    """Source of a function without decorators, docstring and the statement `without`, if any."""
    docstring = node.body[:1] if ast.get_docstring(node, clean=False) is not None else []
    removed = [*docstring, without] if without else docstring
    gone = {n for s in removed for n in range(s.lineno, (s.end_lineno or s.lineno) + 1)}
    numbers = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    if node.lineno in gone:
        return ""
    return dedent("\n".join(module.lines[n - 1] for n in numbers if n not in gone))


def raise_statements(node: Function) -> Iterator[tuple[ast.Raise, str]]:
    """Each `raise` of a function with its exception and message, values in it as `...`."""
    for child in ast.walk(node):
        if isinstance(child, ast.Raise) and isinstance(child.exc, ast.Call) and child.exc.args:
            message = _message(child.exc.args[0])
            if len(message) >= 20:
                yield child, f"{ast.unparse(child.exc.func)}: {message}"


def options(module: Module) -> Iterator[tuple[int, str, str]]:
    """(line, names, help) of the command-line options a module adds to a parser."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="add_argument" | "add_option")):
                described = next((_message(k.value) for k in node.keywords if k.arg == "help"), "")
                names = " ".join(map(_message, node.args)).strip()
                if names:
                    yield node.lineno, names, " ".join(described.split())


def comments(module: Module) -> Iterator[tuple[int, str, str]]:
    """(line, comment on one line, code below it without comments) of whole-line comments."""
    lines = module.lines
    in_strings = {  # numbers of the lines of string literals: no comment starts there
        line
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno != node.lineno
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    numbered = enumerate(lines, start=1)
    runs = groupby(numbered, lambda item: _is_comment(item[1]) and item[0] not in in_strings)
    for comment_lines in (list(run) for is_comment, run in runs if is_comment):
        start, end = comment_lines[0][0], comment_lines[-1][0]
        comment = " ".join(line.strip().lstrip("#").strip() for _, line in comment_lines)
        below = _indented(lines[end : end + 12], _indent(lines[start - 1]))
        block = [line for line in below if not _is_comment(line)]
        if len(comment) >= 30 and len(block) >= 2:
            yield start, comment, dedent("\n".join(block))


def summary_body(doc: str) -> tuple[str, str]:
    """The first paragraph on one line, and all that follows it."""
    first, _, rest = doc.strip().partition("\n\n")
    return " ".join(first.split()), rest.strip("\n")


def sentences(text: str) -> list[str]:
    """Sentences of the prose in `text`, each on one line; code, lists and tables are left out."""
    is_other = re.compile(r"^\s*(>>>|[-*+|=]|:\w|\.\. )|[{}=|<>\\_~]", re.M).search
    prose = (" ".join(p.split()) for p in re.split(r"\n\s*\n", text) if not is_other(p))
    parts = (re.split(r"(?<=[a-z)][.!?])\s+(?=[A-Z])", line) for line in prose)
    found = chain.from_iterable(parts)
    return [s for s in found if s[:1].isupper() and s.endswith((".", "!", "?"))]


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
            # Entries no deeper than their heading cannot be distinguished from the text after them.
            style = "" if style == "google" and level <= indent else style
            continue
        if text and indent < level:
            style = ""
        match = SPHINX.match(text) or DASHED.match(text)
        if not match and style and indent == level:
            match = (GOOGLE if style == "google" else NUMPY).match(text)
        if match:
            deeper = _indented(lines[i + 1 :], indent + 1)
            yield match[1], " ".join([match[2], *map(str.strip, deeper)]).strip()


def _indented(lines: Sequence[str], indent: int) -> Iterator[str]:
    """The first lines, up to an empty one or a smaller indent."""
    return takewhile(lambda line: line.strip() and _indent(line) >= indent, lines)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _message(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_message(part) or "..." for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _message(left) + _message(right)
        case ast.BinOp(left=left):
            return _message(left)
    return ""
