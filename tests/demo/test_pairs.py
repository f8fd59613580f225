import ast
from collections import Counter
from pathlib import Path

import pytest

from tdro_lightning.demo import sources
from tdro_lightning.demo.pairs import Pair, cut, group, module_pairs, section_pairs


@pytest.fixture(scope="module")
def pairs(library: Path) -> dict[str, Pair]:
    files = [file for file in sources.python_files(library) if file[0] == "made.part_0"]
    (module,) = sources.modules(files)
    found = [pair for pair in module_pairs(module) if "harbourlantern0" in pair.document]
    counts = Counter(pair.domain for pair in found)
    assert counts.pop("content_words") == 3
    assert counts.pop("parameter") == 2
    assert set(counts.values()) == {1}
    return {pair.domain: pair for pair in reversed(found)}


def test_every_domain_of_a_module(pairs: dict[str, Pair]) -> None:
    summary = "Return the harbourlantern0 of a given source as a plain record."
    assert pairs["summary_body"].query == pairs["summary_code"].query == summary
    assert pairs["summary_body"].document.startswith("The harbourlantern0 is read from every")
    assert pairs["name_doc"].query == "made.part_0.harbourlantern0"
    assert pairs["name_doc"].document.startswith(summary)
    assert pairs["parameter"].query == "source of made.part_0.harbourlantern0"
    assert pairs["content_words"].query == ("return harbourlantern0 given source plain record")
    message = "LookupError: no entries of harbourlantern0 in ... at all"
    assert pairs["exception_code"].query == pairs["exception_doc"].query == message


def test_the_answer_does_not_hold_the_query(pairs: dict[str, Pair]) -> None:
    assert "Return the" not in pairs["summary_code"].document
    assert "Return the" not in pairs["summary_body"].document
    assert "Keep the first" not in pairs["comment_code"].document
    assert "no entries of" not in pairs["exception_code"].document


def test_manual_passages_follow_their_opening_sentence() -> None:
    text = (
        "The with statement\n******\n\nIt wraps the execution of a block with methods. These are "
        "the methods of a context manager, which\nlets common patterns be reused.\n\n"
        "Grammar\n=======\n\nwith_stmt ::= 'with' expression\n"
    )
    (pair,) = section_pairs("with", "with", "The with statement", text)
    assert pair.query == ("The with statement: It wraps the execution of a block with methods.")
    assert pair.document.startswith("These are the methods")
    assert (pair.domain, pair.group) == ("section", "with")


def test_docstrings_of_modules_and_classes_have_sections_too() -> None:
    text = (
        '"""The module opens with a sentence about records. What follows it explains how these\n'
        'records are read, and by whom, at some length."""\n\n\n'
        "class Reader:\n"
        '    """A reader is described by this opening sentence. What follows it explains how the\n'
        '    reader works, and what it needs, at some length."""\n\n'
        "    def read(self):\n"
        '        """A method is described by an opening sentence too. What follows it is left to\n'
        '        the other domains, which are made of the docstrings of functions."""\n'
    )
    module = sources.Module("package._records", tuple(text.split("\n")), ast.parse(text))
    found = [pair for pair in module_pairs(module) if pair.domain == "section"]
    assert [(pair.place, pair.group) for pair in found] == [
        ("package._records:0", "records"),
        ("package._records.Reader:0", "records"),
    ]
    assert found[1].query == (
        "package._records.Reader: A reader is described by this opening sentence."
    )
    assert found[1].document.startswith("What follows it explains how the\nreader works")


def test_copies_of_a_module_share_a_group() -> None:
    assert group("rich.table") == group("other.vendored.rich._table") == "table"


def test_cut_ends_with_a_whole_word() -> None:
    assert cut("one two three", 8) == "one two"
    assert cut("one two three", 7) == "one two"
    assert cut("one two  ", 100) == "one two"
    assert cut("unbroken", 3) == "unb"
