"""The row format of the published tDRO fine-tuning data, and the example drawn from a row."""

from dataclasses import dataclass
from typing import NotRequired, TypedDict


class Passage(TypedDict):
    """A document, or a piece of one; `score` is a teacher's score where there is one."""

    docid: str
    title: str
    text: str
    score: NotRequired[float | None]


class Row(TypedDict):
    """A query with at least one positive passage and any number of hard negatives."""

    query_id: str
    query: str
    positive_passages: list[Passage]
    negative_passages: list[Passage]


@dataclass(frozen=True)
class Example:
    """One query with its chosen passages as the encoder will read them, positive first."""

    domain: int
    query_id: str
    query: str
    passages: tuple[str, ...]


def passage_text(passage: Passage) -> str:
    """Title and text joined by a space where there are both, else the one that is there."""
    title, text = passage.get("title", ""), passage["text"]
    return f"{title} {text}" if title and text else title or text
