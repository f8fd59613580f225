"""From an object of another project's layout to the fields of a row, not checked yet."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tdro_lightning.data.imports.objects import Objects, Source
from tdro_lightning.errors import DataError

LABELS = ("label", "labels", "score", "scores")

Fields = dict[str, Any]


def tdro(objects: Objects) -> Iterator[tuple[str, Fields]]:
    """The published tDRO rows, and Tevatron's with whole passages, which have the same layout."""
    for place, value in objects:
        yield place, _picked(value, place, "query_id", "query", "positive_passages")


def sentence_transformers(objects: Objects) -> Iterator[tuple[str, Fields]]:
    """Pairs, triplets and n-tuples of Sentence Transformers: one column a text.

    Columns `anchor`, `positive` and `negative`, `negative_1`, ... are found by name, others by
    their order, as Sentence Transformers does: query, positive, negatives, which may be null.
    """
    columns: list[str] = []
    for number, (place, value) in enumerate(objects, start=1):
        columns = columns or _columns(list(value), place)
        if set(value) != set(columns):
            raise DataError(f"{place}: columns are {list(value)}, before they were {columns}")
        query, positive, *negatives = (value[column] for column in columns)
        for column, text in zip(columns, (query, positive, *negatives), strict=True):
            if text is not None and not isinstance(text, str):
                raise DataError(f"{place}: `{column}` must be a string, is {type(text).__name__}")
        yield (
            place,
            {
                "query_id": str(number),
                "query": query,
                "positive_passages": [{"text": positive}],
                "negative_passages": [{"text": text} for text in negatives if text is not None],
            },
        )


def flag_embedding(objects: Objects) -> Iterator[tuple[str, Fields]]:
    """FlagEmbedding's `query`, `pos`, `neg`, with `pos_scores`, `neg_scores` and ids if there."""
    for number, (place, value) in enumerate(objects, start=1):
        fields = _picked(value, place, "query", "pos")
        yield (
            place,
            {
                **{k: v for k, v in fields.items() if k not in ("pos", "neg", "query_id")},
                "query_id": str(value.get("query_id") or number),
                "positive_passages": _listed(fields, "pos", place),
                "negative_passages": _listed(fields, "neg", place),
            },
        )


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
    ids = ("positive_document_ids", "negative_document_ids")
    wanted = {str(id_) for _, value in objects() for key in ids for id_ in value.get(key) or ()}
    documents: dict[str, dict[str, Any]] = {}
    for place, value in corpus.read():
        if str(value.get("docid")) in wanted:
            documents[str(value["docid"])] = _picked(value, place, "docid", "text")
    for place, value in objects():
        fields = _picked(value, place, "query_id", "query_text", ids[0])
        missing = {"text": None}
        yield (
            place,
            {
                "query_id": str(fields["query_id"]),
                "query": fields["query_text"],
                **{
                    f"{key.split('_')[0]}_passages": [
                        {**documents.get(str(id_), missing), "docid": str(id_)}
                        for id_ in fields.get(key) or ()
                    ]
                    for key in ids
                },
                **{k: v for k, v in fields.items() if k not in ("query_text", *ids)},
            },
        )


def _renamed(objects: Objects) -> Objects:
    names = {"positives": "pos", "negatives": "neg"}
    for place, value in objects:
        if not isinstance(value.get("query"), str):
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


def _columns(given: list[str], place: str) -> list[str]:
    labels = [column for column in given if column in LABELS]
    if labels or len(given) < 2:
        raise DataError(
            f"{place}: columns {given} are no query, positive and negatives; labelled pairs "
            f"({', '.join(LABELS)}) are not imported"
        )
    if "anchor" in given and "positive" in given:
        return ["anchor", "positive", *(c for c in given if c not in ("anchor", "positive"))]
    return given


def _listed(fields: Fields, key: str, place: str) -> list[dict[str, Any]]:
    texts = fields.get(key) or []
    scores, ids = fields.get(f"{key}_scores"), fields.get(f"{key}_id")
    for name, values in ((key, texts), (f"{key}_scores", scores), (f"{key}_id", ids)):
        if values is not None and (not isinstance(values, list) or len(values) != len(texts)):
            raise DataError(
                f"{place}: `{name}` must be a list as long as `{key}`, is {values!r}"[:300]
            )
    return [
        {
            "text": text,
            **({"score": scores[i]} if scores is not None else {}),
            **({"docid": str(ids[i])} if ids is not None else {}),
        }
        for i, text in enumerate(texts)
    ]


def ignored(fields: Iterable[str]) -> list[str]:
    """Fields that a row has no place for."""
    known = {"query_id", "query", "positive_passages", "negative_passages"}
    known |= {"pos_scores", "neg_scores", "pos_id", "neg_id"}
    return [field for field in fields if field not in known]
