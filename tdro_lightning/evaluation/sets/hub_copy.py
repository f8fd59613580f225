"""A hub dataset's files in a folder, as its README describes them: tables `corpus`, `queries`, ...

The library that reads them takes long to import, and a chain with nothing to do needs none of it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tdro_lightning.data.beir_files import Judgement
from tdro_lightning.data.fields import grade, identifier, new_identifier, string
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.benchmark import Questions, validate_questions
from tdro_lightning.evaluation.corpus import Corpus, stored_corpus
from tdro_lightning.evaluation.sets.beir import document

_SHARD = re.compile(r"^(.+)-(\d{5})-of-(\d{5})(\..+)$")


def is_hub_copy(folder: Path) -> bool:
    """Whether the folder was taken from the hub, where the README lists the tables.

    The hub's library cannot read BEIR's own files, judgements as `.tsv` beside `.jsonl`.
    """
    readme = folder / "README.md"
    is_beir = any(folder.glob("qrels/*.tsv*"))
    return readme.is_file() and not is_beir and "config_name:" in readme.read_text(encoding="utf-8")


def hub_corpus(folder: Path) -> Corpus:
    """Read the table `corpus`: `_id`, or `id` without it, `title` and `text`.

    Raises:
        DataError: a file is missing or damaged, or a row is malformed.
    """
    require_all_shards(folder)
    return stored_corpus(
        lambda: (document(row, _id(row), place) for place, row in hub_rows(folder, "corpus")),
        folder,
        "hub",
    )


def hub_questions(folder: Path, split: str) -> Questions:
    """Read the table `queries`, and a split of the judgements in the table `default` or `qrels`.

    Raises:
        DataError: as in `hub_corpus`, or as in `validate_questions`.
    """
    import datasets

    queries: dict[str, str] = {}
    for place, row in hub_rows(folder, "queries"):
        queries[new_identifier(row, _id(row), queries, place)] = string(row, "text", place)
    tables = datasets.get_dataset_config_names(str(folder))
    table = "default" if "default" in tables else "qrels"
    judgements = [_judgement(row, place) for place, row in hub_rows(folder, table, split)]
    judged = {judgement.query for judgement in judgements}
    queries = {query: text for query, text in queries.items() if query in judged}
    return validate_questions(Questions(queries, judgements, {}), str(folder))


def hub_rows(
    folder: Path, table: str | None, split: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place and row of a table; its only split where none of that name is there.

    Raises:
        DataError: there is no such table or split, or a file is missing, damaged, or neither JSON
            nor `.csv` nor parquet.
    """
    import datasets

    from tdro_lightning.data.tables import file_rows, split_files

    try:
        found = split_files(str(folder), split, name=table)
    except (OSError, ValueError, EOFError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{folder}: {table} cannot be read ({reason})") from None
    if found is None:
        raise DataError(f"{folder}: the files of {table} must be JSON, .csv or .parquet")
    files, delimiter = found
    for address, file in files.items():
        yield from file_rows(file, address, delimiter)


def require_all_shards(folder: Path) -> None:
    """Refuse a folder that holds some of the files `name-00000-of-00003.parquet`, but not all.

    Raises:
        DataError: names the missing file.
    """
    for path in sorted(folder.rglob("*-of-*")):
        for name, _, count, suffix in _SHARD.findall(path.name):
            for number in range(int(count)):
                other = path.with_name(f"{name}-{number:05d}-of-{count}{suffix}")
                if not other.is_file():
                    raise DataError(f"{other}: no such file")


def _judgement(row: dict[str, Any], place: str) -> Judgement:
    missing = [name for name in ("query-id", "corpus-id", "score") if row.get(name) is None]
    if missing:
        raise DataError(f"{place}: `{missing[0]}` is missing; the row holds {', '.join(row)}")
    query, document = (identifier(row, name, place) for name in ("query-id", "corpus-id"))
    return Judgement(place, query, document, grade(row["score"], place))


def _id(row: dict[str, Any]) -> str:
    return "_id" if "_id" in row else "id"
