"""Query and document pairs of every domain, from parsed modules and manuals."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent

from tdro_lightning.demo import source_code
from tdro_lightning.demo.sources import Module

QUERY_CHARS = 300
DOCUMENT_CHARS = 1000
MIN_DOCUMENT_CHARS = 60
MIN_DESCRIPTION_CHARS = 30
MIN_QUERY_CHARS = 25

Text = tuple[str, str, str, str]  # place, domain, query, document

FUNCTION_WORDS = """
a about after all also an and any are as at be been before being both but by can could did do does
each either else for from had has have he how however if in into is it its just may might more most
must no nor not of on once only or other our over own same shall she should so some such than that
the their them then there these they this those through to too under until up upon us was we were
what when where whether which while who whose why will with within without would you your
"""


@dataclass(frozen=True)
class Pair:
    """A query with its document; `place` says where it comes from, `group` decides its split."""

    domain: str
    group: str
    place: str
    query: str
    document: str


def module_pairs(module: Module) -> Iterator[Pair]:
    """The pairs of every domain that is harvested from source files."""
    for place, domain, query, document in _module_texts(module):
        query, document = cut(" ".join(query.split()), QUERY_CHARS), cut(document, DOCUMENT_CHARS)
        if _is_text(query) and _is_text(document):
            yield Pair(domain, group(module.name), f"{module.name}:{place}", query, document)
    # The docstrings of modules and classes are chapters; those of functions are no longer texts.
    for name, node in [("", module.tree), *source_code.definitions(module.tree.body)]:
        if isinstance(node, ast.ClassDef | ast.Module):
            full = f"{module.name}.{name}".rstrip(".")
            yield from section_pairs(full, group(module.name), full, ast.get_docstring(node) or "")


def group(module: str) -> str:
    """The part of a module's name that decides its split.

    Only the last part counts, so that a module and a copy of it under a similar name (`queue` and
    `_queue`, or `xml.etree.ElementTree` and `etree.elementtree`) are never on both sides.
    """
    return module.rpartition(".")[2].strip("_").lower()


def cut(text: str, limit: int) -> str:
    """`text` without trailing space, cut after the last whole word within `limit` characters."""
    text = text.rstrip()
    if len(text) <= limit:
        return text
    head, space, _ = text[: limit + 1].rpartition(" ")
    return (head if space else text[:limit]).rstrip()


def _is_text(text: str) -> bool:
    letters = sum(c.isalpha() for c in text)
    is_prose = letters >= 12 and letters > 0.45 * len(text.replace(" ", ""))
    return is_prose and not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", text)


def _module_texts(module: Module) -> Iterator[Text]:
    for line, comment, code in source_code.comments(module):
        yield f"{line}", "comment_code", comment, code
    for line, names, described in source_code.options(module):
        if len(described) >= MIN_DESCRIPTION_CHARS:
            yield f"{line}", "parameter", f"option {names} of {module.name}", described
    for name, node in source_code.definitions(module.tree.body):
        doc = ast.get_docstring(node) or ""
        yield from _docstring_texts(name, f"{module.name}.{name}", doc)
        if not isinstance(node, ast.ClassDef):
            yield from _function_texts(module, name, node, doc)
    yield from _docstring_texts("", module.name, ast.get_docstring(module.tree) or "")


def _function_texts(
    module: Module, name: str, node: source_code.Function, doc: str
) -> Iterator[Text]:
    summary, _ = source_code.summary_body(doc)
    code = source_code.code(module, node)
    if len(summary) >= MIN_QUERY_CHARS and code.count("\n") >= 2:
        yield name, "summary_code", summary, code
    for statement, message in source_code.raise_statements(node):
        place = f"{name}.{statement.lineno}"
        if len(doc) >= MIN_DOCUMENT_CHARS:
            yield place, "exception_doc", message, doc
        code = source_code.code(module, node, without=statement)
        # What leads to the error must lie within the part of the code that is kept.
        before = sum(len(line) for line in module.lines[node.lineno - 1 : statement.lineno])
        if code.count("\n") >= 2 and before <= DOCUMENT_CHARS:
            yield place, "exception_code", message, code


def _docstring_texts(name: str, full: str, doc: str) -> Iterator[Text]:
    summary, body = source_code.summary_body(doc)
    if len(doc) >= MIN_DOCUMENT_CHARS:
        yield name, "name_doc", full, doc
    if len(summary) >= MIN_QUERY_CHARS and len(body) >= MIN_DOCUMENT_CHARS:
        yield name, "summary_body", summary, dedent(body)
    for parameter, description in source_code.parameters(doc):
        if len(description) >= MIN_DESCRIPTION_CHARS:
            yield f"{name}.{parameter}", "parameter", f"{parameter} of {full}", description
    function_words = FUNCTION_WORDS.split()
    for i, sentence in enumerate(source_code.sentences(doc)[:3]):
        words = re.findall(r"[A-Za-z][\w.'-]*\w|\w", sentence)
        content = [w.lower() for w in words if w.lower() not in function_words]
        if 60 <= len(sentence) <= QUERY_CHARS and len(content) >= 4:
            yield f"{name}.{i}", "content_words", " ".join(content), sentence


def section_pairs(name: str, group: str, title: str, text: str) -> Iterator[Pair]:
    """The `section` pairs of a manual: title and opening sentence against the text that follows."""
    for i, passage in enumerate(_passages(text)):
        opening = re.match(r"(.{30,}?[a-z)\"][.:!?])\s+(?=\S)", passage, re.S)
        if opening and not re.search(r">>>|::=|^[\d*-]", opening[1]):
            query = cut(f"{title}: {' '.join(opening[1].split())}", QUERY_CHARS)
            document = cut(passage[opening.end() :], DOCUMENT_CHARS)
            if len(document) >= MIN_DOCUMENT_CHARS and _is_text(query) and _is_text(document):
                yield Pair("section", group, f"{name}:{i}", query, document)


def _passages(text: str) -> Iterator[str]:
    held: list[str] = []
    for paragraph in [*re.split(r"\n\s*\n", text), "# the end"]:
        is_heading = re.search(r"[*=~^-]{4,}\s*$|^#|^\s*[|+`<.!\[]", paragraph)
        if not is_heading:
            held.append(dedent(paragraph))
        if held and (is_heading or sum(map(len, held)) > 700):
            yield "\n\n".join(held)
            held = []
