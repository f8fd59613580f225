"""What stands around a text."""

import pytest

from tdro_lightning.models.templates import PAPER, TASK, TEXT, Templates, template_fault


def test_the_paper_s_template() -> None:
    assert PAPER.format_query("a b", "Find it") == "Instruct: Find it\nQuery: a b"
    assert PAPER.format_query("a b", None) == "a b"
    assert PAPER.format_query("a b", "") == "a b"
    assert PAPER.format_passage("a b") == "a b"


def test_names_in_texts_and_tasks_stay_as_they_are() -> None:
    read = PAPER.format_query("{task} {text} {0}", "{text} \\1 {task}")
    assert read == "Instruct: {text} \\1 {task}\nQuery: {task} {text} {0}"


@pytest.mark.parametrize(
    ("stored", "template", "task"),
    [
        ("query: ", "query: {text}", None),
        ("", "{text}", None),
        ("Instruct: Find it.\nQuery:", "Instruct: {task}\nQuery:{text}", "Find it."),
        ("Instruct: Find it.\nQuery: ", "Instruct: {task}\nQuery: {text}", "Find it."),
        ("task: search result | query: ", "task: search result | query: {text}", None),
        ("Instruct: two\nlines\nQuery: ", "Instruct: two\nlines\nQuery: {text}", None),
    ],
)
def test_stored_prompts(stored: str, template: str, task: str | None) -> None:
    templates = Templates.of_prompts(stored, "passage: ")
    assert (templates.query, templates.task) == (template, task)
    assert templates.format_query("x") == f"{stored}x"
    assert templates.format_passage("x") == "passage: x"


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{text}", None),
        ("{task}: {text}", None),
        ("query: ", "must hold {text} once"),
        ("{text}{text}", "must hold {text} once"),
        ("{title} {text}", "may hold {task} and {text}, not {title}"),
    ],
)
def test_templates_by_hand(template: str, fault: str | None) -> None:
    assert template_fault(template, (TASK, TEXT)) == fault
