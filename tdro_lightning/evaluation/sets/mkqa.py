"""MKQA's questions: one row a question, with its wording and answers in each language.

The questions of one language are asked against English documents, so the English answers count,
each with its aliases. Questions are left out, as in mContriever's and BGE-M3's evaluations, where
all English answers are of the types `unanswerable`, `long_answer` or `binary` (yes or no): the
published file keeps 6,619 of 10,000.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tdro_lightning.data.characters import is_blank
from tdro_lightning.data.fields import new_identifier, optional_list, string
from tdro_lightning.data.jsonl import read_objects
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.benchmark import Questions, validate_questions
from tdro_lightning.evaluation.sets.hub_copy import hub_rows

FILE = "mkqa.jsonl.gz"
# In the order of the numbers that stand for them in the hub's tables.
TYPES = (
    *("entity", "long_answer", "unanswerable", "date", "number", "number_with_unit"),
    *("short_phrase", "binary"),
)
LEFT_OUT = ("unanswerable", "long_answer", "binary")


def mkqa_questions(folder: Path, language: str) -> Questions:
    """Read `mkqa.jsonl.gz`, or the tables of the hub's dataset where the folder lacks that file.

    Raises:
        DataError: the file is missing or malformed, or no question of the language has an answer.
    """
    queries: dict[str, str] = {}
    answers: dict[str, tuple[str, ...]] = {}
    for place, row in _rows(folder):
        identifier = new_identifier(row, "example_id", queries, place)
        wordings = row.get("queries")
        if not isinstance(wordings, dict) or language not in wordings:
            known = ", ".join(wordings) if isinstance(wordings, dict) else "nothing"
            raise DataError(f"{place}: `queries` lacks the language {language!r}; it has {known}")
        accepted = _accepted(row, place)
        if accepted:
            queries[identifier] = string(wordings, language, f"{place}: in `queries`")
            answers[identifier] = accepted
    return validate_questions(Questions(queries, [], answers), str(folder))


def _rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    path = folder / FILE
    if path.exists():
        return read_objects(path)
    if not any(folder.rglob("*.parquet")):
        raise DataError(f"{path}: no such file")
    return hub_rows(folder, None, "train")


def _accepted(row: dict[str, Any], place: str) -> tuple[str, ...]:
    """English answers and aliases of the types that count, each once."""
    answers = row.get("answers")
    if not isinstance(answers, dict) or not isinstance(answers.get("en"), list):
        raise DataError(f"{place}: `answers.en` must be a list of answers")
    accepted: dict[str, None] = {}
    for answer in answers["en"]:
        kind = answer.get("type")
        kind = TYPES[kind] if type(kind) is int and 0 <= kind < len(TYPES) else kind
        if kind not in TYPES:
            raise DataError(f"{place}: `type` {kind!r} must be one of {', '.join(TYPES)}")
        if kind not in LEFT_OUT:
            aliases = optional_list(answer, "aliases", place)
            texts = [text for text in (answer.get("text"), *aliases) if text is not None]
            if not all(isinstance(text, str) for text in texts):
                raise DataError(f"{place}: answers must be strings, are {texts!r}"[:300])
            accepted |= dict.fromkeys(text for text in texts if not is_blank(text))
    return tuple(accepted)
