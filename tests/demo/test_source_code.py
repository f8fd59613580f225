import ast

from tdro_lightning.demo import source_code
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
    ((statement, message),) = source_code.raised(node)
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
