"""From an object of another project's layout to the fields of a row, not checked yet."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tdro_lightning.data.beir_files import wanted_documents
from tdro_lightning.data.fields import identifier, optional_list
from tdro_lightning.data.imports.objects import Objects, Source
from tdro_lightning.errors import DataError

Fields = dict[str, Any]
NAMES = {  # of the columns that have a role
    "query_id": ("query_id",),
    "query": ("anchor", "query", "question", "sentence1"),
    "positive": ("positive", "answer", "passage", "pos", "sentence2"),
}
LABELS = ("label", "labels", "score", "scores")
_HINT = "give the columns: 'source.columns={query: COLUMN, positive: COLUMN}'"
_NEGATIVE = re.compile(r"negative(_(\d+))?")

Roles = Mapping[str, str]


def tdro(objects: Objects) -> Iterator[tuple[str, Fields]]:
    """The published tDRO rows, and Tevatron's with whole passages, which have the same layout."""
    for place, value in objects:
        yield place, _picked(value, place, "query_id", "query", "positive_passages")


def flag_embedding(objects: Objects) -> Iterator[tuple[str, Fields]]:
    """FlagEmbedding's `query`, `pos`, `neg`, with `pos_scores`, `neg_scores` and ids if there.

    Rows have an id each, or are numbered: a number could be the id of another row.
    """
    numbered = None
    for number, (place, value) in enumerate(objects, start=1):
        fields = _picked(value, place, "query", "pos")
        has_id = fields.pop("query_id", None) is not None
        numbered = not has_id if numbered is None else numbered
        if numbered is has_id:
            raise DataError(
                f"{place}: `query_id` is {'there' if has_id else 'missing or null'}, unlike in the "
                "rows before; give an id to every row, or to none"
            )
        yield (
            place,
            {
                **{k: v for k, v in fields.items() if k not in ("pos", "neg")},
                "query_id": identifier(value, "query_id", place) if has_id else str(number),
                "positive_passages": _passages(fields, "pos", place),
                "negative_passages": _passages(fields, "neg", place),
            },
        )


def sentence_transformers(
    objects: Objects, columns: Roles | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table of texts; the order of its columns means nothing.

    Args:
        objects: place and columns of each row.
        columns: the column of each role; others are left out then. None finds all by their names,
            and refuses those that it does not know.

    Raises:
        DataError: columns without a role, that differ between rows, or that hold no text.
    """
    roles: Roles = {}
    given: set[str] = set()
    for number, (place, value) in enumerate(objects, start=1):
        if not given:
            given, roles = set(value), columns or _find_roles(value, place)
        missing = [column for column in roles.values() if column not in value]
        if missing or (columns is None and set(value) != given):
            lacks = f"`{missing[0]}` is missing; " if missing else ""
            raise DataError(
                f"{place}: {lacks}columns are {sorted(value)}, expected {sorted(given)}"
                if columns is None
                else f"{place}: {lacks}columns are {sorted(value)} (source.columns)"
            )
        texts = {role: _text(value, roles[role], place) for role in roles if role != "query_id"}
        row_id = identifier(value, roles["query_id"], place) if "query_id" in roles else str(number)
        negatives = [texts[role] for role in sorted(texts, key=_rank) if _NEGATIVE.fullmatch(role)]
        yield (
            place,
            {
                **{column: value[column] for column in value if column not in roles.values()},
                "query_id": row_id,
                "query": texts["query"],
                "positive_passages": [{"text": texts["positive"]}],
                "negative_passages": [{"text": text} for text in negatives if text is not None],
            },
        )


def _find_roles(value: Iterable[str], place: str) -> Roles:
    """The column of each role by the columns' names."""
    by_name = {name: role for role, names in NAMES.items() for name in names}
    roles: dict[str, str] = {}
    unknown = []
    for column in value:
        role = column if _NEGATIVE.fullmatch(column) else by_name.get(column)
        if role is None:
            unknown.append(column)
        elif role in roles:
            raise DataError(
                f"{place}: columns {roles[role]!r} and {column!r} could both be the {role}; {_HINT}"
            )
        else:
            roles[role] = column
    labels = [column for column in unknown if column in LABELS]
    if labels:
        raise DataError(
            f"{place}: columns {sorted(value)} are labelled pairs, which are not imported: "
            f"{labels[0]!r} says how alike they are; {_HINT}"
        )
    missing = [role for role in ("query", "positive") if role not in roles]
    faults = [f"there is no {role} ({', '.join(NAMES[role])})" for role in missing[:1]]
    faults += [f"{', '.join(map(repr, sorted(unknown)))} unknown"] if unknown else []
    if faults:
        raise DataError(
            f"{place}: columns {sorted(value)} are not understood: {'; '.join(faults)}; {_HINT}"
        )
    return roles


def _text(value: Mapping[str, Any], column: str, place: str) -> str | None:
    text = value[column]
    if text is not None and not isinstance(text, str):
        raise DataError(f"{place}: `{column}` must be a string, is {type(text).__name__}")
    return text


def _rank(role: str) -> int:
    """Place of a negative's role: `negative`, `negative_1`, ..., `negative_10`."""
    found = _NEGATIVE.fullmatch(role)
    return int(found[2]) if found and found[2] else -1


def tevatron(corpus: Source | None, objects: Callable[[], Objects]) -> Iterator[tuple[str, Fields]]:
    """Tevatron's rows: with passages, with the ids of documents in a corpus, or with bare texts.

    The second are `query_id`, `query_text`, `positive_document_ids`, `negative_document_ids`; the
    third, the oldest, `query`, `positives`, `negatives`.
    """
    first = next(objects(), None)
    if first is None:
        return
    place, value = first
    if "positive_passages" in value:
        yield from tdro(objects())
    elif "positives" in value:
        yield from flag_embedding(_renamed(objects()))
    elif "positive_document_ids" in value:
        if corpus is None:
            raise DataError(
                f"{place}: rows name documents by id; give their corpus: source.corpus=FILE"
            )
        yield from _with_documents(corpus, objects)
    else:
        raise DataError(f"{place}: none of Tevatron's layouts; the fields are {list(value)}")


def _with_documents(corpus: Source, objects: Callable[[], Objects]) -> Iterator[tuple[str, Fields]]:
    parts = {f"{kind}_document_ids": f"{kind}_passages" for kind in ("positive", "negative")}
    wanted = {
        docid
        for place, value in objects()
        for key in parts
        for docid in _document_ids(value, key, place)
    }
    pairs = ((place, _picked(value, place, "docid", "text")) for place, value in corpus.read())
    documents = wanted_documents(pairs, "docid", wanted)
    for place, value in objects():
        fields = _picked(value, place, "query_id", "query_text", "positive_document_ids")
        found = {
            part: [
                documents.get(docid, {"text": None}) | {"docid": docid}
                for docid in _document_ids(fields, key, place)
            ]
            for key, part in parts.items()
        }
        rest = {key: fields[key] for key in fields if key not in ("query_text", *parts)}
        yield place, {"query": fields["query_text"], **found, **rest}


def _document_ids(value: Mapping[str, Any], key: str, place: str) -> list[str]:
    ids = optional_list(value, key, place)
    return [identifier({f"{key}[{i}]": id_}, f"{key}[{i}]", place) for i, id_ in enumerate(ids)]


def _renamed(objects: Objects) -> Objects:
    names = {"positives": "pos", "negatives": "neg"}
    for place, value in objects:
        if isinstance(value.get("query"), list):
            raise DataError(f"{place}: `query` holds token ids, not text; they are not imported")
        yield place, {names.get(key, key): field for key, field in value.items()}


def _picked(value: Mapping[str, Any], place: str, *required: str) -> Fields:
    missing = [field for field in required if field not in value]
    if missing:
        raise DataError(
            f"{place}: `{missing[0]}` is missing; the fields are {list(value)}; "
            "is source.layout the layout of this file?"
        )
    return dict(value)


def _passages(fields: Fields, key: str, place: str) -> list[dict[str, Any]]:
    """The texts in a field, one or a list of them, with their scores and ids."""
    given = fields.get(key)
    if isinstance(given, str) and _is_written_list(given):
        raise DataError(f"{place}: `{key}` is a list written as a text: {given!r}"[:300])
    texts = [given] if isinstance(given, str) else optional_list(fields, key, place)
    scores, ids = fields.get(f"{key}_scores"), fields.get(f"{key}_id")
    for name, values in ((f"{key}_scores", scores), (f"{key}_id", ids)):
        if values is not None and (not isinstance(values, list) or len(values) != len(texts)):
            raise DataError(
                f"{place}: `{name}` must be a list as long as `{key}`, is {values!r}"[:300]
            )
    return [
        {
            "text": text,
            **({"score": scores[i]} if scores is not None else {}),
            **(
                {"docid": identifier({f"{key}_id": ids[i]}, f"{key}_id", place)}
                if ids is not None and ids[i] is not None
                else {}
            ),
        }
        for i, text in enumerate(texts)
    ]


def _is_written_list(text: str) -> bool:
    """Whether a text is a Python or JSON list, as tables without lists hold one."""
    try:
        return text[:1] + text[-1:] == "[]" and isinstance(ast.literal_eval(text), list)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False


def ignored_fields(fields: Iterable[str]) -> list[str]:
    """Fields that a row has no place for."""
    known = {
        *("query_id", "query", "positive_passages", "negative_passages"),
        *("pos_scores", "neg_scores", "pos_id", "neg_id"),
    }
    return [field for field in fields if field not in known]
