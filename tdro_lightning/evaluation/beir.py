"""BEIR's layout: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv` in a folder."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tdro_lightning.data.jsonl import read_lines, read_objects
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.benchmark import Judgement, Questions, checked_questions
from tdro_lightning.evaluation.corpus import Corpus, Document, stored_corpus

HEADER = "query-id\tcorpus-id\tscore"


def beir_corpus(folder: Path) -> Corpus:
    """Read `corpus.jsonl`, also as `.gz`.

    Raises:
        DataError: the file is missing, empty or malformed, or an id stands twice.
    """
    path = either(folder, "corpus.jsonl")
    return stored_corpus(lambda: _documents(path), path, "beir")


def _documents(path: Path) -> Iterator[Document]:
    for number, value in read_objects(path):
        yield document(value, "_id", f"{path}:{number}")


def beir_questions(folder: Path, split: str) -> Questions:
    """Read `queries.jsonl` and `qrels/<split>.tsv`, each also as `.gz`.

    Answers are taken from `metadata.answers` of the queries.

    Raises:
        DataError: a file is missing, empty or malformed, or as in `checked_questions`.
    """
    path = either(folder, "queries.jsonl")
    qrels = either(folder, f"qrels/{split}.tsv")
    queries: dict[str, str] = {}
    answers: dict[str, tuple[str, ...]] = {}
    for number, value in read_objects(path):
        place = f"{path}:{number}"
        identifier = new_id(value, "_id", queries, place)
        queries[identifier] = string(value, "text", place)
        if not queries[identifier].strip():
            raise DataError(f"{place}: `text` of query {identifier!r} is empty")
        metadata = value.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise DataError(f"{place}: `metadata` must be an object, is {metadata!r}")
        if metadata and "answers" in metadata:
            answers[identifier] = _answers(metadata["answers"], place)
    if not queries:
        raise DataError(f"{path}: no queries in it")
    judgements = _judgements(qrels)
    judged = {judgement.query for judgement in judgements}
    answers = {query: found for query, found in answers.items() if query in judged}
    return checked_questions(Questions(queries, judgements, answers), str(path))


def either(folder: Path, name: str) -> Path:
    """The file of that name, or that name and `.gz`.

    Raises:
        DataError: there is neither, or both.
    """
    plain, zipped = folder / name, folder / f"{name}.gz"
    if plain.exists() and zipped.exists():
        raise DataError(f"{plain} and {zipped.name} both exist; keep one of them")
    if not plain.exists() and not zipped.exists():
        beside = sorted(path.name for path in plain.parent.glob("*")) or ["nothing"]
        raise DataError(
            f"{plain}: no such file, nor {zipped.name}; the folder holds {', '.join(beside[:20])}"
        )
    return plain if plain.exists() else zipped


def document(value: Mapping[str, Any], field: str, place: str) -> Document:
    """The document with its id in a field, its `text`, and its `title` where there is one."""
    identifier = new_id(value, field, {}, place)
    title = string(value, "title", place) if value.get("title") is not None else ""
    return Document(place, identifier, title, string(value, "text", place))


def new_id(value: Mapping[str, Any], field: str, known: Mapping[str, str], place: str) -> str:
    """The id in a field, which must not be known yet."""
    identifier = string(value, field, place)
    if not identifier:
        raise DataError(f"{place}: `{field}` is empty")
    if identifier in known:
        raise DataError(f"{place}: `{field}` {identifier!r} stands twice")
    return identifier


def string(value: Mapping[str, Any], field: str, place: str) -> str:
    """The text in a field."""
    text = value.get(field)
    if not isinstance(text, str):
        raise DataError(f"{place}: `{field}` must be a string, is {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: `{field}` holds a lone surrogate, not valid Unicode") from None
    return text


def _answers(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: `metadata.answers` must be a list of strings, is {value!r}")
    for answer in value:
        if not isinstance(answer, str) or not answer.strip():
            raise DataError(f"{place}: `metadata.answers` holds {answer!r}, which is no text")
    return tuple(value)


def _judgements(path: Path) -> list[Judgement]:
    judgements = []
    for number, ended in read_lines(path):
        line, place = ended.rstrip("\r\n"), f"{path}:{number}"
        if number == 1:
            if line != HEADER:
                raise DataError(f"{place}: the header must be {HEADER!r}, is {line!r}")
            continue
        if not line.strip():
            continue
        cells = line.split("\t")
        if len(cells) != 3:
            raise DataError(f"{place}: expected 3 columns divided by tabs, got {line!r}")
        judgements.append(Judgement(place, cells[0], cells[1], whole_number(cells[2], place)))
    if not judgements:
        raise DataError(f"{path}: no judgements in it")
    return judgements


def whole_number(grade: str, place: str) -> int:
    """The grade of a judgement."""
    try:
        return int(grade)
    except ValueError:
        raise DataError(f"{place}: the score must be a whole number, is {grade!r}") from None
