"""Rank the evaluation sets with one or more retrievers and write their metrics."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tdro_lightning.distributed.processes import barrier, from_first, rank
from tdro_lightning.errors import ConfigError, DataError
from tdro_lightning.evaluation.averages import mean_over_sets
from tdro_lightning.evaluation.benchmark import ContentHasher, RetrievalSet, SetLoaders
from tdro_lightning.evaluation.metrics import MAIN_METRICS, answer_accuracy, average, score
from tdro_lightning.evaluation.sparse_vectors import describe_vectors, write_vectors
from tdro_lightning.files import remove_path, slug, write_json
from tdro_lightning.search.fusion import Fusion, missing_members
from tdro_lightning.search.retriever import Hits, Index, Queries, Retriever

EMBEDDINGS = "embeddings"

logger = logging.getLogger(__name__)

# From a depth to the hits of a set's queries.
Search = Callable[[int], Hits]


def prepare_search(retriever: Retriever, dataset: RetrievalSet, folder: Path) -> Search:
    """Encode and index a set with all processes, keeping files in a folder; the first searches."""
    return _search(dataset, *_encode(retriever, dataset, folder))


def _encode(retriever: Retriever, dataset: RetrievalSet, folder: Path) -> tuple[Queries, Index]:
    queries = retriever.encode_queries(dataset.queries, dataset.prompt, folder, dataset.name)
    return queries, retriever.index(dataset.documents, folder, dataset.name)


def _search(dataset: RetrievalSet, queries: Queries, index: Index) -> Search:
    return lambda depth: index.search(queries.take(np.arange(len(dataset.queries))), depth)


def evaluate(
    retrievers: Mapping[str, Retriever],
    sets: SetLoaders,
    output: Path,
    kept: Path | None = None,
    fusions: Mapping[str, Fusion] | None = None,
) -> dict[str, Any]:
    """Evaluate each retriever on each set.

    Called by all processes together: they share the encoding, the first alone searches and writes.
    Writes `metrics.json` (averages over the queries of each set, and as in `mean_over_sets` over
    the sets that have the metric; of each set the digest of its `ContentHasher`),
    `per_query/<label>/<set>.json` and, of sparse vectors, `sparse_vectors.json` to the folder
    `output`. Embeddings lie in its folder `embeddings` until all is done; a run that was
    interrupted resumes from them.

    Args:
        retrievers: by the label that the results carry.
        sets: by name, loaded one after the other, each for all retrievers.
        output: the run folder.
        kept: where embeddings lie instead and stay, for later runs; runs may share it.
        fusions: of the retrievers' rankings, by the label that the results carry.

    Returns:
        The content of `metrics.json`, on every process.

    Raises:
        ConfigError: there is no retriever or no set, two names make the same file name, or a
            fusion names a retriever that is not there.
        DataError: embeddings or scores are not finite.
    """
    fusions = fusions or {}
    results = _Results(
        output,
        _file_names([*retrievers, *fusions], "retriever"),
        _file_names(list(sets), "evaluation set"),
    )
    if wrong := missing_members(fusions, list(retrievers)):
        raise ConfigError("\n".join(wrong))
    described: dict[str, dict[str, Any]] = {}
    content = ContentHasher()
    for name, load in sets.items():
        logger.info("reading %s", name)
        dataset = load()
        sha256 = from_first(content.digest(dataset) if rank() == 0 else "")
        described[name] = {"sha256": sha256, "queries": len(dataset.query_ids)}
        _evaluate_set(name, dataset, retrievers, fusions, results, kept or output / EMBEDDINGS)
        del dataset  # or its documents stay in memory while the next ones are loaded
    metrics: dict[str, Any] = {
        "retrievers": {
            label: _summary(by_set, described) for label, by_set in results.scores.items()
        },
        "sets": described,
    }
    if rank() == 0:
        write_vectors(output, results.vectors)
        write_json(output / "metrics.json", metrics)
        remove_path(output / EMBEDDINGS)
    barrier()
    return metrics


def _evaluate_set(
    name: str,
    dataset: RetrievalSet,
    retrievers: Mapping[str, Retriever],
    fusions: Mapping[str, Fusion],
    results: "_Results",
    folder: Path,
) -> None:
    """Add to the results what retrievers, and then fusions of their rankings, reach on a set."""
    fused = {label for fusion in fusions.values() for label in fusion.members}
    rankings: dict[str, Hits] = {}
    for label, retriever in retrievers.items():
        try:
            logger.info("%s on %s", label, name)
            hits, vectors = _rank(label, retriever, dataset, folder)
            results.add(label, name, score_hits(hits, dataset) if hits else {}, vectors)
        except DataError as error:
            raise DataError(f"{label} on {name}: {error}") from None
        if label in fused and hits:
            rankings[label] = hits
    for label, fusion in fusions.items():
        logger.info("%s on %s", label, name)
        hits = fusion.fuse(rankings, dataset.depth) if rankings else None
        results.add(label, name, score_hits(hits, dataset) if hits else {})


def _rank(
    label: str, retriever: Retriever, dataset: RetrievalSet, folder: Path
) -> tuple[Hits | None, dict[str, Any] | None]:
    """Rank a set with all processes; the ranking, and what sparse vectors are, on the first one."""
    queries, index = _encode(retriever, dataset, folder)
    logger.info("%s searches %s", label, dataset.name)
    if rank() > 0:
        return None, None
    began = time.monotonic()
    hits = search_set(_search(dataset, queries, index), dataset)
    return hits, describe_vectors(index, queries, dataset, hits, time.monotonic() - began)


@dataclass
class _Results:
    """Scores of retrievers as they come, those of queries written to the folder `output`.

    Attributes:
        folders, files: parts of file names, by retriever and by set.
        scores: means of each set, by retriever; on every process.
        vectors: what sparse vectors of a set are, by retriever; on the first process.
    """

    output: Path
    folders: Mapping[str, str]
    files: Mapping[str, str]
    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    vectors: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(
        self,
        label: str,
        name: str,
        values: Mapping[str, Mapping[str, float]],
        vectors: dict[str, Any] | None = None,
    ) -> None:
        """Add what a retriever has reached on a set; the values are those of the first process."""
        values = from_first(values)
        if rank() == 0:
            path = self.output / "per_query" / self.folders[label] / f"{self.files[name]}.json"
            write_json(path, values)
        self.scores.setdefault(label, {})[name] = means = average(values.values())
        if vectors is not None:
            self.vectors.setdefault(label, {})[name] = vectors
        main = main_metric(means)
        logger.info("%s on %s: %s %.4f", label, name, main, means[main])


def _summary(
    by_set: Mapping[str, dict[str, float]], described: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """A retriever's means of each set with its number of queries, and their averages."""
    sets = {n: means | {"queries": described[n]["queries"]} for n, means in by_set.items()}
    return {"sets": sets, "average": _averages(by_set)}


def main_metric(metrics: Mapping[str, float]) -> str:
    """The metric that sums up a set or an average."""
    return next(name for name in MAIN_METRICS if name in metrics)


def _averages(by_set: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(metric for metrics in by_set.values() for metric in metrics)
    return {
        metric: mean_over_sets({name: m[metric] for name, m in by_set.items() if metric in m})
        for metric in names
    }


def score_set(search: Search, dataset: RetrievalSet) -> dict[str, dict[str, float]]:
    """Metrics of each query of a set.

    Raises:
        DataError: as in `score` and `answer_accuracy`.
    """
    return score_hits(search_set(search, dataset), dataset)


def search_set(search: Search, dataset: RetrievalSet) -> Hits:
    """Rankings of a set to its depth, without documents that are their own query."""
    scores, indices = search(dataset.depth + dataset.skip_own_id)
    if dataset.skip_own_id:
        ids = dataset.document_ids
        own = np.array(
            [
                [index >= 0 and ids[index] == query for index in row]
                for query, row in zip(dataset.query_ids, indices.tolist(), strict=True)
            ]
        )
        indices[own], scores[own] = -1, 0
        order = np.argsort(indices < 0, axis=1, kind="stable")
        indices = np.take_along_axis(indices, order, axis=1)
        scores = np.take_along_axis(scores, order, axis=1)
    return scores[:, : dataset.depth], indices[:, : dataset.depth]


def score_hits(hits: Hits, dataset: RetrievalSet) -> dict[str, dict[str, float]]:
    """Metrics of each query of a set, by a ranking of its documents.

    Raises:
        DataError: as in `score` and `answer_accuracy`.
    """
    scores, indices = hits
    results: dict[str, dict[int, float]] = {}
    for query, *row in zip(dataset.query_ids, indices.tolist(), scores.tolist(), strict=True):
        results[query] = {i: value for i, value in zip(*row, strict=True) if i >= 0}
    values: dict[str, dict[str, float]] = {query: {} for query in dataset.query_ids}
    if dataset.qrels:
        run = {
            query: {dataset.document_ids[index]: value for index, value in found.items()}
            for query, found in results.items()
        }
        values = score(run, dataset.qrels, relevant=dataset.relevant, depth=dataset.depth)
    if dataset.answers is not None:
        texts = {query: [dataset.documents[i] for i in found] for query, found in results.items()}
        for query, accuracy in answer_accuracy(texts, dataset.answers).items():
            values[query] |= accuracy
    return values


def _file_names(names: Sequence[str], kind: str) -> dict[str, str]:
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
