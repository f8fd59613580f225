"""BEIR's layout: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv` in a folder."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tdro_lightning.data.beir_files import plain_or_zipped, read_judgements, read_queries
from tdro_lightning.data.characters import is_blank
from tdro_lightning.data.fields import identifier, string
from tdro_lightning.data.jsonl import read_objects
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.benchmark import Questions, validate_questions
from tdro_lightning.evaluation.corpus import Corpus, Document, stored_corpus


def beir_corpus(folder: Path) -> Corpus:
    """Read `corpus.jsonl`, also as `.gz`.

    Raises:
        DataError: the file is missing, empty or malformed, or an id is a duplicate.
    """
    path = plain_or_zipped(folder, "corpus.jsonl")
    return stored_corpus(lambda: read_documents([path], "_id"), path, "beir")


def read_documents(paths: Iterable[Path], field: str) -> Iterator[Document]:
    """Yield the documents of `.jsonl` files, which have their ids in a field."""
    for path in paths:
        for place, value in read_objects(path):
            yield document(value, field, place)


def beir_questions(folder: Path, split: str) -> Questions:
    """Read `queries.jsonl` and `qrels/<split>.tsv`, each also as `.gz`.

    Answers are taken from `metadata.answers` of the queries.

    Raises:
        DataError: a file is missing, empty or malformed, or as in `validate_questions`.
    """
    path = plain_or_zipped(folder, "queries.jsonl")
    qrels = plain_or_zipped(folder, f"qrels/{split}.tsv")
    queries: dict[str, str] = {}
    answers: dict[str, tuple[str, ...]] = {}
    for place, query, value in read_queries(path):
        queries[query] = string(value, "text", place)
        if is_blank(queries[query]):
            raise DataError(f"{place}: `text` of query {query!r} is empty")
        metadata = value.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise DataError(f"{place}: `metadata` must be an object, is {metadata!r}")
        if metadata and "answers" in metadata:
            answers[query] = _answers(metadata["answers"], place)
    judgements = read_judgements(qrels)
    judged = {judgement.query for judgement in judgements}
    answers = {query: found for query, found in answers.items() if query in judged}
    return validate_questions(Questions(queries, judgements, answers), str(path))


def document(value: Mapping[str, Any], field: str, place: str) -> Document:
    """The document with its id in a field, its `text`, and its `title` where there is one."""
    title = string(value, "title", place) if value.get("title") is not None else ""
    return Document(place, identifier(value, field, place), title, string(value, "text", place))


def _answers(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: `metadata.answers` must be a list of strings, is {value!r}")
    for answer in value:
        if not isinstance(answer, str) or is_blank(answer):
            raise DataError(f"{place}: `metadata.answers` holds {answer!r}, which is no text")
    return tuple(value)
