"""Evaluation sets in BEIR's layout: a corpus, queries, and graded judgements."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tdro_lightning.data.jsonl import read_lines, read_objects
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.corpus import Corpus, Document, document_text, stored_corpus
from tdro_lightning.files import fingerprint
from tdro_lightning.processes import from_first, is_first_process

HEADER = "query-id\tcorpus-id\tscore"


@dataclass(frozen=True)
class RetrievalSet:
    """One evaluation set; only judged queries are in it.

    Attributes:
        documents: title and text of each document, in the order of `document_ids`.
        queries: text of each query, in the order of `query_ids`.
        qrels: grade of each judged document, per query.
        answers: accepted answers of each query, where the set has them.
        prompt: instruction for encoding the queries.
    """

    name: str
    document_ids: Sequence[str]
    documents: Sequence[str]
    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    qrels: dict[str, dict[str, int]]
    answers: dict[str, tuple[str, ...]] | None
    prompt: str | None


def load_set(
    name: str, folder: Path, split: str = "test", prompt: str | None = None
) -> RetrievalSet:
    """Read `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`, each also as `.gz`.

    Called by all processes together.

    Raises:
        DataError: a file is missing, empty or malformed, an id stands twice, a judgement names an
            unknown query or document, or only some of the judged queries have answers.
    """
    corpus = _corpus(_file(folder, "corpus.jsonl"))
    queries_file = _file(folder, "queries.jsonl")
    queries, answers = _queries(queries_file)
    qrels = _qrels(_file(folder, f"qrels/{split}.tsv"), queries, corpus)
    judged = [query for query in queries if query in qrels]
    answered = {query: answers[query] for query in judged if query in answers}
    if answered and len(answered) < len(judged):
        missing = next(query for query in judged if query not in answered)
        raise DataError(
            f"{queries_file}: {len(answered)} of {len(judged)} judged queries have "
            f"`metadata.answers`, query {missing!r} has none; give answers to all or to none"
        )
    return RetrievalSet(
        name=name,
        document_ids=corpus.ids,
        documents=corpus.texts,
        query_ids=tuple(judged),
        queries=tuple(queries[query] for query in judged),
        qrels={query: qrels[query] for query in judged},
        answers=answered or None,
        prompt=prompt,
    )


def _file(folder: Path, name: str) -> Path:
    plain, zipped = folder / name, folder / f"{name}.gz"
    if plain.exists() and zipped.exists():
        raise DataError(f"{plain} and {zipped.name} both exist; keep one of them")
    if not plain.exists() and not zipped.exists():
        beside = sorted(path.name for path in plain.parent.glob("*")) or ["nothing"]
        raise DataError(
            f"{plain}: no such file, nor {zipped.name}; the folder holds {', '.join(beside)}"
        )
    return plain if plain.exists() else zipped


def _corpus(path: Path) -> Corpus:
    content = from_first(fingerprint(path) if is_first_process() else "")
    return stored_corpus(lambda: _documents(path), str(path), f"beir {content}")


def _documents(path: Path) -> Iterator[Document]:
    for number, value in read_objects(path):
        place = f"{path}:{number}"
        identifier = _id(value, place)
        title = _string(value, "title", place) if value.get("title") is not None else ""
        text = _string(value, "text", place)
        if not document_text(title, text):
            raise DataError(f"{place}: document {identifier!r} has neither title nor text")
        yield Document(place, identifier, title, text)


def _queries(path: Path) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    queries: dict[str, str] = {}
    answers: dict[str, tuple[str, ...]] = {}
    for number, value in read_objects(path):
        place = f"{path}:{number}"
        identifier = _new_id(value, queries, place)
        queries[identifier] = _string(value, "text", place)
        if not queries[identifier].strip():
            raise DataError(f"{place}: `text` of query {identifier!r} is empty")
        metadata = value.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise DataError(f"{place}: `metadata` must be an object, is {metadata!r}")
        if metadata and "answers" in metadata:
            answers[identifier] = _answers(metadata["answers"], place)
    if not queries:
        raise DataError(f"{path}: no queries in it")
    return queries, answers


def _answers(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{place}: `metadata.answers` must be a list of strings, is {value!r}")
    for answer in value:
        if not isinstance(answer, str) or not answer.strip():
            raise DataError(f"{place}: `metadata.answers` holds {answer!r}, which is no text")
    return tuple(value)


def _qrels(path: Path, queries: Collection[str], corpus: Corpus) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    places: dict[str, str] = {}
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
        query, document, grade = cells
        if query not in queries:
            raise DataError(f"{place}: query {query!r} is not among the queries")
        places.setdefault(document, place)
        judged = qrels.setdefault(query, {})
        if document in judged:
            raise DataError(f"{place}: query {query!r} and document {document!r} stand twice")
        try:
            judged[document] = int(grade)
        except ValueError:
            raise DataError(f"{place}: the score must be a whole number, is {grade!r}") from None
    if not qrels:
        raise DataError(f"{path}: no judgements in it")
    known = corpus.ids.among(places)
    for document, place in places.items():
        if document not in known:
            raise DataError(f"{place}: document {document!r} is not in the corpus")
    return qrels


def _new_id(value: dict[str, Any], known: dict[str, str], place: str) -> str:
    identifier = _id(value, place)
    if identifier in known:
        raise DataError(f"{place}: `_id` {identifier!r} stands twice")
    return identifier


def _id(value: dict[str, Any], place: str) -> str:
    identifier = _string(value, "_id", place)
    if not identifier:
        raise DataError(f"{place}: `_id` is empty")
    return identifier


def _string(value: dict[str, Any], field: str, place: str) -> str:
    text = value.get(field)
    if not isinstance(text, str):
        raise DataError(f"{place}: `{field}` must be a string, is {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: `{field}` holds a lone surrogate, not valid Unicode") from None
    return text
