import ast
from inspect import cleandoc

import pytest

from tdro_lightning.demo import source_code
from tdro_lightning.demo.source_code import parameters, sentences, summary_body
from tdro_lightning.demo.sources import Module

SOURCE = '''\
import argparse


@decorated
def reading(path):
    """Summary of reading.

    # This only looks like a comment, in a docstring.
    """
    # The first of two comment lines,
    # and the second one.
    with open(path) as stream:
        # inner comment that is dropped
        text = stream.read()

    if not text:
        raise ValueError("nothing in " + path + f" or {text} to read")
    return text


class Reader:
    def run(self):
        def nested(): ...
        parser.add_argument("-n", "--number", help="how many of %s"
                            " there are")
'''


def module() -> Module:
    return Module("pkg.mod", tuple(SOURCE.split("\n")), ast.parse(SOURCE))


def test_definitions_are_named_below_their_class() -> None:
    names = [name for name, _ in source_code.definitions(module().tree.body)]
    assert names == ["reading", "Reader", "Reader.run"]


def test_code_lacks_decorator_docstring_and_the_raise() -> None:
    node = module().tree.body[1]
    assert isinstance(node, ast.FunctionDef)
    ((statement, message),) = source_code.raise_statements(node)
    assert message == "ValueError: nothing in  or ... to read"
    code = source_code.code(module(), node, without=statement)
    assert code.startswith("def reading(path):\n    # The first")
    assert "Summary" not in code
    assert "raise" not in code
    assert source_code.code(module(), node).count("raise") == 1


def test_one_line_definition_with_a_docstring_has_no_code() -> None:
    text = 'def f(): "Summary of it."'
    tree = ast.parse(text)
    node = tree.body[0]
    assert isinstance(node, ast.FunctionDef)
    assert source_code.code(Module("m", (text,), tree), node) == ""


def test_comments_go_with_the_code_below_them() -> None:
    ((line, comment, code),) = source_code.comments(module())
    assert line == 10
    assert comment == "The first of two comment lines, and the second one."
    assert code == "with open(path) as stream:\n    text = stream.read()"


def test_options_of_a_parser() -> None:
    assert list(source_code.options(module())) == [(24, "-n --number", "how many of %s there are")]


def test_summary_is_the_first_paragraph_on_one_line() -> None:
    doc = "Read a\n  record.\n\nMore on it.\n\n    code\n"
    assert summary_body(doc) == ("Read a record.", "More on it.\n\n    code")
    assert summary_body("Only this.") == ("Only this.", "")


def test_sentences_leave_out_code_and_lists() -> None:
    doc = "First one here. Second one\nover two. no capital.\n\n>>> Not. This\n\n- Nor this. One"
    assert sentences(doc) == ["First one here.", "Second one over two. no capital."]


GOOGLE = """
Summary.

Args:
    path (str): where the file
        lies.
    **options (dict(str, int)): passed on.

Returns:
    count: not a parameter.
"""

NUMPY = """
Summary.

Parameters
----------
path : str
    Where the file
    lies.
left, right
    The two ends.

Returns
-------
count : int
    Not a parameter.
"""

SPHINX = """
Summary.

:param path: where the file
    lies.
:param int limit: how many.
:returns: not a parameter.
"""

DASHED = """
Keyword arguments:
path -- where the file
    lies
- limit -- how many
Note: not a parameter.
"""


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        (GOOGLE, [("path", "where the file lies."), ("options", "passed on.")]),
        (NUMPY, [("path", "Where the file lies."), ("left", "The two ends.")]),
        (SPHINX, [("path", "where the file lies."), ("limit", "how many.")]),
        (DASHED, [("path", "where the file lies"), ("limit", "how many")]),
        ("No parameters here: none at all.", []),
    ],
)
def test_parameters_of_every_style(doc: str, expected: list[tuple[str, str]]) -> None:
    found = [(name, text.lstrip()) for name, text in parameters(cleandoc(doc))]
    assert found == expected
