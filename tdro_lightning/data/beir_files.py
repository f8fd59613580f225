"""BEIR's files, read for training data and for evaluation sets."""

from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tdro_lightning.data.fields import grade, identifier, new_identifier
from tdro_lightning.data.jsonl import read_lines, read_objects
from tdro_lightning.errors import DataError

DOWNLOAD = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
HEADER = "query-id\tcorpus-id\tscore"


class Judgement(NamedTuple):
    """The grade of a document for a query, and the file and line that say so."""

    place: str
    query: str
    document: str
    grade: int


def plain_or_zipped(folder: Path, name: str) -> Path:
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


def read_queries(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield place, id and fields of each query of `queries.jsonl`.

    Raises:
        DataError: an id is missing, of another type or a duplicate.
    """
    known: set[str] = set()
    for place, value in read_objects(path):
        known.add(found := new_identifier(value, "_id", known, place))
        yield place, found, value


def read_judgements(path: Path) -> list[Judgement]:
    """The judgements of a table with BEIR's header.

    Raises:
        DataError: a malformed line, or no judgement.
    """
    judgements = []
    for number, ended in read_lines(path):
        line, place = ended.rstrip("\r\n"), f"{path}:{number}"
        if number == 1:
            if line != HEADER:
                raise DataError(f"{place}: the header must be {HEADER!r}, is {line!r}")
        elif line.strip():
            cells = line.split("\t")
            if len(cells) != 3:
                raise DataError(f"{place}: expected 3 columns divided by tabs, got {line!r}")
            judgements.append(judgement(place, *cells))
    if not judgements:
        raise DataError(f"{path}: no judgements in it")
    return judgements


def judgement(place: str, query: str, document: str, given: str) -> Judgement:
    """The judgement in the cells of a table.

    Raises:
        DataError: an id is empty, or as in `grade`.
    """
    if not (query and document):
        raise DataError(f"{place}: an id is empty, query {query!r} or document {document!r}")
    return Judgement(place, query, document, grade(given, place))


def grades_by_query(judgements: Iterable[Judgement]) -> dict[str, dict[str, int]]:
    """The grade of each judged document, per query.

    Raises:
        DataError: two judgements contradict each other.
    """
    grades: dict[str, dict[str, int]] = {}
    for place, query, document, given in judgements:
        if grades.setdefault(query, {}).setdefault(document, given) != given:
            raise DataError(
                f"{place}: query {query!r} and document {document!r} are judged before, "
                f"with grade {grades[query][document]} and not {given}"
            )
    return grades


def beir_files(folder: Path, split: str) -> dict[str, Path]:
    """The corpus, queries and judgements of a folder, each plain or gzipped.

    Raises:
        DataError: one is missing, or both plain and gzipped; the message says how to get the set.
    """
    names = {"corpus": "corpus.jsonl", "queries": "queries.jsonl", "qrels": f"qrels/{split}.tsv"}
    try:
        return {label: plain_or_zipped(folder, name) for label, name in names.items()}
    except DataError as error:
        raise DataError(
            f"{error}; get the set with "
            f"`wget {DOWNLOAD}/{folder.name}.zip && unzip {folder.name}.zip -d {folder.parent}`"
        ) from None


def beir(files: dict[str, Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One row for each judged query, in the queries' order.

    Documents judged above 0 are positives, best first, the others negatives. Documents that the
    corpus lacks come without a text.

    Raises:
        DataError: a malformed line, judgements that contradict each other, or a judged query that
            is missing.
    """
    judged = grades_by_query(read_judgements(files["qrels"]))
    documents = wanted_documents(
        read_objects(files["corpus"]), "_id", {d for grades in judged.values() for d in grades}
    )
    for place, query, value in read_queries(files["queries"]):
        if query not in judged:
            continue
        grades = judged.pop(query)
        best_first = sorted(grades, key=lambda document: (-grades[document], document))
        yield (
            place,
            {
                "query_id": query,
                "query": value.get("text"),
                "positive_passages": [_passage(d, documents) for d in best_first if grades[d] > 0],
                "negative_passages": [_passage(d, documents) for d in best_first if grades[d] <= 0],
            },
        )
    if judged:
        raise DataError(
            f"{files['queries']}: {len(judged)} judged queries are missing, among them "
            f"{min(judged)!r}"
        )


def wanted_documents(
    objects: Iterable[tuple[str, dict[str, Any]]], field: str, wanted: Container[str]
) -> dict[str, dict[str, Any]]:
    """The documents with some ids, by the id that they have in a field.

    Raises:
        DataError: one of them is a duplicate, or as in `identifier`.
    """
    documents: dict[str, dict[str, Any]] = {}
    for place, value in objects:
        found = identifier(value, field, place)
        if found in documents:
            raise DataError(f"{place}: document {found!r} is a duplicate")
        if found in wanted:
            documents[found] = value
    return documents


def _passage(document: str, documents: dict[str, dict[str, Any]]) -> dict[str, Any]:
    value = documents.get(document, {})
    return {"docid": document, "title": value.get("title"), "text": value.get("text")}
