from inspect import cleandoc

import pytest

from tdro_lightning.demo.docstrings import parameters, sentences, summary_body


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
