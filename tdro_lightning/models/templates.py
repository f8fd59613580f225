"""What stands around a text before a model reads it: the instruction of a query, a prefix."""

import re
from dataclasses import dataclass
from typing import Self

TASK, TEXT = "{task}", "{text}"
_STORED = re.compile(r"(?P<before>.*?\bInstruct: )(?P<task>[^\n]+)(?P<after>\nQuery: ?)", re.DOTALL)


@dataclass(frozen=True)
class Templates:
    """Templates of queries and passages; the default is the paper's.

    A query without a task, by itself or by default, is read bare where its template has `{task}`.

    Args:
        query: with `{text}` and, where each domain and evaluation set has its own, `{task}`.
        passage: with `{text}`.
        task: of queries that come without one.
    """

    query: str = f"Instruct: {TASK}\nQuery: {TEXT}"
    passage: str = TEXT
    task: str | None = None

    @classmethod
    def of_prompts(cls, query: str, passage: str) -> Self:
        """Templates that put a stored prompt before each text.

        The instruction of a prompt like `Instruct: Given a question, ...\\nQuery: ` becomes the
        default task, so that domains and evaluation sets may have theirs.
        """
        stored = _STORED.fullmatch(query)
        if stored is None:
            return cls(query + TEXT, passage + TEXT)
        template = stored["before"] + TASK + stored["after"] + TEXT
        return cls(template, passage + TEXT, stored["task"])

    def format_query(self, text: str, task: str | None = None) -> str:
        """The query as the model reads it."""
        task = task or self.task
        if TASK in self.query and not task:
            return text
        return _fill(self.query, text, task)

    def format_passage(self, text: str, task: str | None = None) -> str:
        """The passage as the model reads it; with a task, as a query of the same kind."""
        return self.format_query(text, task) if task else _fill(self.passage, text, None)


PAPER = Templates()


def template_fault(template: str, allowed: tuple[str, ...]) -> str | None:
    """What is wrong with a template that a user wrote; None where nothing is."""
    if template.count(TEXT) != 1:
        return f"must hold {TEXT} once"
    others = set(re.findall(r"\{\w*\}", template)) - set(allowed)
    return f"may hold {' and '.join(allowed)}, not {min(others)}" if others else None


def _fill(template: str, text: str, task: str | None) -> str:
    before, _, after = template.partition(TEXT)
    return before.replace(TASK, task or "") + text + after.replace(TASK, task or "")
