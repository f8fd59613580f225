"""Rank the evaluation sets with one or more retrievers and write their metrics."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tdro_lightning.distributed.processes import barrier, from_first, rank
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.evaluation.averages import mean_over_sets
from tdro_lightning.evaluation.benchmark import RetrievalSet, Sets
from tdro_lightning.evaluation.content import Content
from tdro_lightning.evaluation.metrics import MAIN_METRICS, answer_accuracy, average, score
from tdro_lightning.files import slug, write_json
from tdro_lightning.search.bm25 import BM25
from tdro_lightning.search.dense import exact_search
from tdro_lightning.search.encoding import HALF_FROM, SHARD_TEXTS, encode
from tdro_lightning.search.forecast import Forecast
from tdro_lightning.search.shards import Shards

EMBEDDINGS = "embeddings"

logger = logging.getLogger(__name__)

# From a depth to scores and document indices [Q, depth], best first; index -1 is no document.
Search = Callable[[int], tuple[NDArray[np.float32], NDArray[np.int64]]]


class Retriever(Protocol):
    """Anything that ranks documents for queries."""

    def prepare(self, one: RetrievalSet, folder: Path) -> Search:
        """Do what takes all processes, keeping files in a folder; the first process searches."""
        ...


@dataclass
class Lexical:
    """BM25; it has no use for the prompt, and keeps the index for sets with the same documents."""

    _indexed: tuple[Sequence[str], BM25] | None = field(default=None, init=False)

    def prepare(self, one: RetrievalSet, folder: Path) -> Search:
        """Return the search, which builds its index where it is called."""

        def search(depth: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            if self._indexed is None or self._indexed[0] is not one.documents:
                self._indexed = None
                self._indexed = one.documents, BM25(one.documents)
            return self._indexed[1].search(one.queries, depth)

        return search


@dataclass(frozen=True)
class Dense:
    """Inner products of embeddings, searched exactly.

    Attributes:
        embed_queries: texts and prompt to embeddings [Q, D].
        embed_documents: texts to embeddings [N, D].
        fingerprint: of the encoder; embeddings of an earlier run are taken over by it.
        device: where the search multiplies.
        announce: called with a set's name and forecast, where its encoding takes several shards.
        shard_texts: texts in one file of embeddings.
        half_from: number of documents from which on they are stored in float16.
    """

    embed_queries: Callable[[Sequence[str], str | None], NDArray[np.float32]]
    embed_documents: Callable[[Sequence[str]], NDArray[np.float32]]
    fingerprint: str
    device: str = "cpu"
    announce: Callable[[str, Forecast], None] | None = None
    shard_texts: int = SHARD_TEXTS
    half_from: int = HALF_FROM

    def prepare(self, one: RetrievalSet, folder: Path) -> Search:
        """Embed queries and documents into the folder, each process its share.

        Texts that are in the folder already, of another set or another run, are not embedded again.
        """
        queries = self.encoded_queries(one.queries, one.prompt, folder)
        documents = self.encoded_documents(one.documents, folder, one.name)
        return lambda depth: exact_search(queries[:], documents, depth, device=self.device)

    def encoded_queries(self, texts: Sequence[str], prompt: str | None, folder: Path) -> Shards:
        """Embeddings [Q, D] of queries, in a folder of their own there, as in `encode`."""
        return encode(
            texts,
            lambda some: self.embed_queries(some, prompt),
            folder / "queries",
            self.fingerprint,
            prompt,
            self.shard_texts,
            self.half_from,
        )

    def encoded_documents(self, texts: Sequence[str], folder: Path, name: str) -> Shards:
        """Embeddings [N, D] of what `name` stands for, in a folder of their own there."""
        announce = self.announce
        return encode(
            texts,
            self.embed_documents,
            folder / "documents",
            self.fingerprint,
            shard_texts=self.shard_texts,
            half_from=self.half_from,
            announce=announce and (lambda forecast: announce(name, forecast)),
        )


def evaluate(
    retrievers: Mapping[str, Retriever], sets: Sets, output: Path, kept: Path | None = None
) -> dict[str, Any]:
    """Evaluate each retriever on each set.

    Called by all processes together: they share the encoding, the first alone searches and writes.
    Writes `metrics.json` (averages over the queries of each set, and as in `mean_over_sets` over
    the sets that have the metric; of each set the digest of its `Content`) and
    `per_query/<label>/<set>.json` to the folder `output`.
    Embeddings lie in its folder `embeddings` until all is done; a run that was interrupted goes on
    from them.

    Args:
        retrievers: by the label that the results carry.
        sets: loaded one after the other, each for all retrievers.
        output: the run folder.
        kept: where embeddings lie instead and stay, for later runs; runs may share it.

    Returns:
        The content of `metrics.json`, on every process.

    Raises:
        ConfigError: there is no retriever or no set, or two names make the same file name.
        DataError: embeddings or scores are not finite.
    """
    folders = _slugs(list(retrievers), "retriever")
    files = _slugs(sets.names, "evaluation set")
    scores: dict[str, dict[str, dict[str, float]]] = {label: {} for label in retrievers}
    described: dict[str, dict[str, Any]] = {}
    content = Content()
    for one in sets:
        sha256 = from_first(content.of(one) if rank() == 0 else "")
        described[one.name] = {"sha256": sha256, "queries": len(one.query_ids)}
        for label, retriever in retrievers.items():
            try:
                logger.info("%s on %s", label, one.name)
                search = retriever.prepare(one, kept or output / EMBEDDINGS)
                values = from_first(_values(search, one) if rank() == 0 else {})
            except DataError as error:
                raise DataError(f"{label} on {one.name}: {error}") from None
            if rank() == 0:
                file = output / "per_query" / folders[label] / f"{files[one.name]}.json"
                write_json(file, values)
            scores[label][one.name] = average(values.values())
            main = main_metric(scores[label][one.name])
            value = scores[label][one.name][main]
            logger.info("%s on %s: %s %.4f", label, one.name, main, value)
        del one, search  # or the documents stay in memory while the next ones are loaded
    results = {
        label: {
            "sets": {
                name: by_set[name] | {"queries": described[name]["queries"]} for name in by_set
            },
            "average": _averages(by_set),
        }
        for label, by_set in scores.items()
    }
    metrics: dict[str, Any] = {"retrievers": results, "sets": described}
    if rank() == 0:
        write_json(output / "metrics.json", metrics)
        if (output / EMBEDDINGS).exists():
            shutil.rmtree(output / EMBEDDINGS)
    barrier()
    return metrics


def main_metric(metrics: Mapping[str, float]) -> str:
    """The metric that sums up a set or an average."""
    return next(name for name in MAIN_METRICS if name in metrics)


def _averages(by_set: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(metric for metrics in by_set.values() for metric in metrics)
    return {
        metric: mean_over_sets({name: m[metric] for name, m in by_set.items() if metric in m})
        for metric in names
    }


def _values(search: Search, one: RetrievalSet) -> dict[str, dict[str, float]]:
    scores, indices = search(one.depth + one.skip_own_id)
    found = {}
    for query, *row in zip(one.query_ids, indices.tolist(), scores.tolist(), strict=True):
        ranked = [(place, float(value)) for place, value in zip(*row, strict=True) if place >= 0]
        if one.skip_own_id:
            ranked = [(place, value) for place, value in ranked if one.document_ids[place] != query]
        found[query] = dict(ranked[: one.depth])
    values: dict[str, dict[str, float]] = {query: {} for query in one.query_ids}
    if one.qrels:
        run = {
            query: {one.document_ids[place]: value for place, value in places.items()}
            for query, places in found.items()
        }
        values = score(run, one.qrels, relevant=one.relevant, depth=one.depth)
    if one.answers is not None:
        texts = {query: [one.documents[p] for p in places] for query, places in found.items()}
        for query, accuracy in answer_accuracy(texts, one.answers).items():
            values[query] |= accuracy
    return values


def _slugs(names: Sequence[str], kind: str) -> dict[str, str]:
    if not names:
        raise ConfigError(f"evaluation needs at least one {kind}")
    slugs: dict[str, str] = {}
    for name in names:
        short = slug(name)
        if not short:
            raise ConfigError(f"{kind} {name!r}: the name needs a letter or digit (A-Z, a-z, 0-9)")
        other = next((n for n, s in slugs.items() if s.lower() == short.lower()), None)
        if name in slugs or other is not None:
            raise ConfigError(
                f"{kind}s {other!r} and {name!r} would share the file name {short!r}; rename one"
            )
        slugs[name] = short
    return slugs
