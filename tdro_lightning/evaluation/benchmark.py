"""Evaluation sets as the evaluation sees them: documents, queries, and what counts as a hit."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tdro_lightning.data.beir_files import Judgement, grades_by_query
from tdro_lightning.data.characters import is_blank
from tdro_lightning.errors import DataError
from tdro_lightning.evaluation.corpus import BROKEN_SHARE, Corpus

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrievalSet:
    """One evaluation set; only judged queries are in it.

    Attributes:
        documents: title and text of each document, in the order of `document_ids`.
        queries: text of each query, in the order of `query_ids`.
        qrels: grade of each judged document, per query; empty where only answers count.
        answers: accepted answers of each query, where the set has them.
        prompt: instruction for encoding the queries.
        relevant: lowest grade that counts as relevant in recall and reciprocal rank.
        skip_own_id: a document whose id is the query's is the query itself and no result.
        depth: documents ranked for each query.
    """

    name: str
    document_ids: Sequence[str]
    documents: Sequence[str]
    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    qrels: dict[str, dict[str, int]]
    answers: dict[str, tuple[str, ...]] | None
    prompt: str | None
    relevant: int = 1
    skip_own_id: bool = False
    depth: int = 100


# From the name of each evaluation set to what loads it, so that one at a time is in memory.
SetLoaders = Mapping[str, Callable[[], RetrievalSet]]


@dataclass(frozen=True)
class Questions:
    """Queries by id, and their judged documents or their accepted answers."""

    queries: dict[str, str]
    judgements: list[Judgement]
    answers: dict[str, tuple[str, ...]]


def validate_questions(questions: Questions, place: str) -> Questions:
    """The questions, once they are found to fit each other.

    Raises:
        DataError: there is no query, judgement or answer, a query is empty, a judgement names an
            unknown query or contradicts another one, or only some of the judged queries have
            answers.
    """
    if not questions.queries:
        raise DataError(f"{place}: no queries in it")
    empty = next((query for query, text in questions.queries.items() if is_blank(text)), None)
    if empty is not None:
        raise DataError(f"{place}: the text of query {empty!r} is empty")
    if not questions.judgements and not questions.answers:
        raise DataError(f"{place}: no judgements in it")
    for judgement in questions.judgements:
        if judgement.query not in questions.queries:
            raise DataError(
                f"{judgement.place}: query {judgement.query!r} is not among the queries"
            )
    judged = grades_by_query(questions.judgements)
    missing = [query for query in judged if query not in questions.answers]
    if missing and len(missing) < len(judged):
        raise DataError(
            f"{place}: {len(judged) - len(missing)} of {len(judged)} judged queries have answers, "
            f"query {missing[0]!r} has none; give answers to all or to none"
        )
    return questions


def build_retrieval_set(
    name: str,
    corpus: Corpus,
    questions: Questions,
    *,
    prompt: str | None = None,
    relevant: int = 1,
    skip_own_id: bool = False,
    depth: int = 100,
) -> RetrievalSet:
    """Put checked documents and questions together.

    Relevant documents that the corpus lacks stay judged, so that they count as not found, as in the
    field: ArguAna has five. More of them are the sign of a corpus that is not whole.

    Raises:
        DataError: over 1 % of the relevant documents are not in the corpus.
    """
    qrels = grades_by_query(questions.judgements)
    relevants = [j for j in questions.judgements if j.grade > 0]
    known = {judgement.document for judgement in relevants}.intersection(corpus.ids)
    lost = [judgement for judgement in relevants if judgement.document not in known]
    if len(lost) > BROKEN_SHARE * len(relevants):
        raise DataError(
            f"{lost[0].place}: document {lost[0].document!r} is not in the corpus, "
            f"like {len(lost)} of {len(relevants)} relevant ones; is the corpus whole?"
        )
    if lost:
        logger.warning("%s: %d relevant documents are not in the corpus", name, len(lost))
    ids = [query for query in questions.queries if query in (qrels or questions.answers)]
    return RetrievalSet(
        name=name,
        document_ids=corpus.ids,
        documents=corpus.texts,
        query_ids=tuple(ids),
        queries=tuple(questions.queries[query] for query in ids),
        qrels={query: qrels[query] for query in ids} if qrels else {},
        answers={q: questions.answers[q] for q in ids if q in questions.answers} or None,
        prompt=prompt,
        relevant=relevant,
        skip_own_id=skip_own_id,
        depth=depth,
    )


@dataclass
class ContentHasher:
    """Digests of evaluation sets, of which only equal ones can be compared.

    A corpus that follows itself is read once.
    """

    _corpus: tuple[Sequence[str], str] | None = field(default=None, init=False)

    def digest(self, dataset: RetrievalSet) -> str:
        """SHA-256 of all that a set's scores depend on besides the retriever.

        These are the queries, the documents and their ids, the judgements and answers, and what
        counts as a hit. Name, prompt, files, layout and the order of rows are left out, so that
        copies of a set agree.
        """
        if self._corpus is None or self._corpus[0] is not dataset.documents:
            self._corpus = (
                dataset.documents,
                _sum(zip(dataset.document_ids, dataset.documents, strict=True)),
            )
        content = {
            "documents": self._corpus[1],
            "queries": _sum(zip(dataset.query_ids, dataset.queries, strict=True)),
            "qrels": dataset.qrels,
            "answers": {query: sorted(texts) for query, texts in (dataset.answers or {}).items()},
            "relevant": dataset.relevant,
            "skip_own_id": dataset.skip_own_id,
            "depth": dataset.depth,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sum(pairs: Iterable[tuple[str, str]]) -> str:
    """Number of some pairs and the sum of their digests, whatever their order."""
    count = total = 0
    for identifier, text in pairs:
        key = b"%d:" % len(encoded := identifier.encode()) + encoded + text.encode()
        total += int.from_bytes(hashlib.sha256(key).digest())
        count += 1
    return f"{count} {total % 2**256:064x}"
