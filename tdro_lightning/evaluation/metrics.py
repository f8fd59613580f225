"""Retrieval metrics of each query: judged relevance, and presence of an answer."""

import math
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from itertools import chain
from statistics import fmean

import ir_measures

from tdro_lightning.data.characters import INVISIBLE, UNSPACED, WORD
from tdro_lightning.data.fields import GREATEST_GRADE
from tdro_lightning.errors import DataError

MAIN_METRICS = ("ndcg@10", "accuracy@10")  # a set is summed up by the first one that it has

_ANSWER_TOKEN = re.compile(rf"[{UNSPACED}]|{WORD}|[^{INVISIBLE}]")


def score(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    *,
    relevant: int = 1,
    depth: int = 100,
) -> dict[str, dict[str, float]]:
    """Return nDCG@10 (linear gains), recall@100 and the reciprocal rank in the first 10.

    Documents of equal score keep their order in the run. Every judged query is scored, one without
    results or without a relevant document with 0; queries without judgements are left out.

    Args:
        run: score of each found document, per query.
        qrels: grade of each judged document, per query; a negative one is not relevant.
        relevant: lowest grade that counts as relevant in recall and reciprocal rank.
        depth: documents ranked for each query; from 1000 on, recall@1000 is returned too.

    Returns:
        Metric values (fractions) of each judged query.

    Raises:
        DataError: a score is NaN, or a grade is no whole number or above 100.
    """
    level = min(relevant, GREATEST_GRADE + 1)
    names = {
        ir_measures.nDCG @ 10: "ndcg@10",
        ir_measures.R(rel=level) @ 100: "recall@100",
        ir_measures.RR(rel=level) @ 10: "mrr@10",
    }
    if depth >= 1000:
        names[ir_measures.R(rel=level) @ 1000] = "recall@1000"
    values = {query: dict.fromkeys(names.values(), 0.0) for query in qrels}
    grades: dict[str, dict[str, int]] = {}
    ranks: dict[str, dict[str, float]] = {}
    # The library below ends the process at negative and huge grades, and at ids that are no valid
    # text or hold a NUL: it gets checked grades, and numbers for ids.
    for number, (query, judged) in enumerate(qrels.items()):
        # The measures' own providers break ties by document id, and not all the same way.
        order = _rank(query, run.get(query, {}))
        ids = {document: str(place) for place, document in enumerate((*order, *judged))}
        ranks[str(number)] = {ids[document]: float(-rank) for rank, document in enumerate(order)}
        grades[str(number)] = {ids[d]: _grade(query, d, value) for d, value in judged.items()}
    queries = list(qrels)
    for metric in ir_measures.iter_calc(list(names), grades, ranks):
        values[queries[int(metric.query_id)]][names[metric.measure]] = float(metric.value)
    return values


def _rank(query: str, scores: Mapping[str, float]) -> list[str]:
    for document, value in scores.items():
        if math.isnan(value):
            raise DataError(f"query {query!r}: the score of document {document!r} is NaN")
    return sorted(scores, key=scores.__getitem__, reverse=True)


def _grade(query: str, document: str, grade: int) -> int:
    """The grade, 0 for a negative one."""
    if not isinstance(grade, int) or isinstance(grade, bool) or grade > GREATEST_GRADE:
        raise DataError(
            f"query {query!r}: the grade of document {document!r} must be a whole number up to "
            f"{GREATEST_GRADE}, is {grade!r}"
        )
    return max(grade, 0)


def answer_accuracy(
    ranked: Mapping[str, Sequence[str]],
    answers: Mapping[str, Sequence[str]],
    cutoffs: Sequence[int] = (10, 100),
) -> dict[str, dict[str, float]]:
    """Return for each query whether one of the first texts holds one of its answers.

    The answer match of open-domain question answering (Karpukhin et al., EMNLP 2020): the tokens
    of the answer, lower-cased and Unicode-normalised, occur side by side in the text. Tokens are
    runs of letters, marks and digits, and every other visible character, so that 3 is in 3.5 but
    43 is not in 1943. Only Chinese, Japanese, Korean and Thai characters are a token each here,
    while there a run of them is one, in which no answer is found.

    Args:
        ranked: texts found for each query, best first.
        answers: accepted answers of each query; all of these queries are scored.
        cutoffs: numbers of texts to look at.

    Returns:
        `accuracy@<cutoff>` of each query, 0 or 1.

    Raises:
        DataError: a query has no answer, or one without any token.
    """
    tokens = cache(_spaced_tokens)
    values = {}
    for query, accepted in answers.items():
        needles = [_spaced_tokens(answer) for answer in accepted]
        if not needles or any(not needle.strip() for needle in needles):
            raise DataError(f"query {query!r}: answers must hold text, are {list(accepted)!r}")
        found = enumerate(ranked.get(query, ())[: max(cutoffs)])
        ranks = (rank for rank, text in found if any(needle in tokens(text) for needle in needles))
        first = next(ranks, math.inf)
        values[query] = {f"accuracy@{cutoff}": float(first < cutoff) for cutoff in cutoffs}
    return values


def average(values: Collection[Mapping[str, float]]) -> dict[str, float]:
    """Average each metric over the queries, or over the sets, that have it.

    Raises:
        DataError: there is nothing to average.
    """
    names = dict.fromkeys(chain.from_iterable(values))
    if not names:
        raise DataError("no metrics to average: there are no queries")
    return {name: fmean(metrics[name] for metrics in values if name in metrics) for name in names}


def _spaced_tokens(text: str) -> str:
    # Composed, not decomposed: equal under the same texts, and a Hangul syllable stays one.
    normal = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).lower())
    return f" {' '.join(_ANSWER_TOKEN.findall(normal))} "
